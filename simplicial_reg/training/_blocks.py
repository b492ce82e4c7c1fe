"""The parts of a model: what it is under its wrappers, its modules by name, and its stack of blocks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

__all__ = ["COPIES", "Stack", "find_module", "find_stack", "returns_its_last_state", "stacks", "unwrapped"]

COPIES = (
    "model must not be DataParallel on several devices: it runs copies, whose hidden states cannot be read; "
    "use DistributedDataParallel"
)

# What modules are called that only wrap another: torch.compile, distributed and checkpointing wrappers.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Stack(NamedTuple):
    """The blocks that a model's states are numbered by."""

    name: str
    blocks: list[nn.Module]  # each once
    enclosing: list[nn.Module]  # the modules that hold the stack, the outermost first

    def is_as_configured(self) -> bool:
        """Whether the nearest configuration speaks of so many layers, and not of those of an encoder and a decoder."""
        for module in reversed(self.enclosing):
            config = getattr(module, "config", None)
            count = getattr(config, "num_hidden_layers", None)
            if count is not None:
                return bool(count == len(self.blocks)) and not getattr(config, "is_encoder_decoder", False)
        return False


def returns_its_last_state(module: nn.Module) -> bool:
    """Whether a plain tensor or tuple from this module is its last state and not, say, logits: true of base models."""
    if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)):
        return True
    return getattr(module, "base_model", None) is module  # as Hugging Face's models without a head say


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that is run, without what only wraps it."""
    while True:
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise ValueError(COPIES)
        children = dict(model.named_children())
        inner = [child for name, child in children.items() if name in WRAPPERS]
        if len(children) != 1 or not inner:
            return model
        (model,) = inner


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def find_module(model: nn.Module, root: nn.Module, name: str) -> nn.Module:
    """The module of this name in the model as it was given, or in `root`, which is the same without wrappers."""
    modules = dict(model.named_modules(remove_duplicate=False))
    inner = dict(root.named_modules(remove_duplicate=False))
    known: dict[str, nn.Module] = {**{_plain(key): module for key, module in inner.items()}, **inner, **modules}
    if name and name in known:
        return known[name]
    near = difflib.get_close_matches(name, [key for key in known if key], n=4, cutoff=0.4)
    near = near or [key for key, _ in root.named_children()]
    raise ValueError(
        f'layer must be "last", "all", a number or the name of a module of {type(root).__name__}, as in named_modules(); '
        f"got {name!r}; the nearest are {', '.join(map(repr, near))}"
    )


def find_stack(root: nn.Module) -> Stack:
    """The one stack of blocks, or an error that lists what there is instead."""
    found = list(stacks(root, "", []))
    if len(found) > 1:
        found = [stack for stack in found if stack.is_as_configured()] or found
    if len(found) == 1:
        return found[0]
    kind = type(root).__name__
    if not found:
        raise ValueError(
            f"layer must be the name of a module of {kind}, because it has no ModuleList or Sequential of blocks to number; "
            f"its parts are {', '.join(repr(name) for name, _ in root.named_children())}"
        )
    listed = ", ".join(f"{stack.name!r} ({len(stack.blocks)} × {type(stack.blocks[0]).__name__})" for stack in found)
    raise ValueError(
        f"model must have one stack of blocks, or layer be the name of a module; {kind} has {len(found)}: {listed}; tap the part that "
        f"holds the one you mean, as in Tap(model.{found[0].name.rpartition('.')[0] or found[0].name}), "
        f"or pass layer={found[0].name + '.0'!r}"
    )


def stacks(module: nn.Module, name: str, enclosing: list[nn.Module]) -> Iterator[Stack]:
    """The outermost stacks of blocks."""
    if _is_stack(module):
        yield Stack(name, list(dict.fromkeys(module.children())), enclosing)
        return
    for key, child in module.named_children():
        yield from stacks(child, f"{name}.{key}" if name else key, [*enclosing, module])


def _is_stack(module: nn.Module) -> bool:
    blocks = list(module.children())
    if not blocks or not all(any(True for _ in block.children()) for block in blocks):
        return False
    if isinstance(module, nn.Sequential):
        return len(blocks) > 1 and len({type(block) for block in blocks}) == 1
    return isinstance(module, nn.ModuleList)
