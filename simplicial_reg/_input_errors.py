"""What a command says when the user's input cannot be used: one line, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

__all__ = ["BAD_INPUT", "InputError", "input_errors"]

BAD_INPUT = 2


class InputError(click.ClickException):
    """What the user gave cannot be used; the message says why and what to do."""

    exit_code = BAD_INPUT


@contextmanager
def input_errors(prefix: str = "", *, memory: str | None = None) -> Iterator[None]:
    """Around what reads or uses the user's input: its errors become one line. Other exceptions are bugs and stay as they are.

    Args:
        prefix: what the line begins with.
        memory: what to do when memory runs out; None: that is no matter of the input, and the error stays as it is.

    Raises:
        InputError: in place of the error.
    """
    try:
        yield
    except OSError as error:
        # Of the system, with a number and a file; of other packages and of this one with the whole message.
        of_system = error.strerror is not None and error.filename is not None
        message = f"{error.filename}: {error.strerror}; check the name and the folder" if of_system else str(error)
        raise InputError(prefix + message) from error
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(prefix + str(error)) from error
    except (MemoryError, RuntimeError) as error:
        # torch has no type of its own for what does not fit into the memory of the CPU.
        of_memory = isinstance(error, MemoryError) or any(
            words in str(error) for words in ("allocate memory", "out of memory")
        )
        if memory is None or not of_memory:
            raise
        raise InputError(f"{prefix}out of memory; {memory}") from error
