"""Reads the hidden states of a model that are to be diagnosed, all in one forward.

The states of a stack of blocks are those of `simplicial_reg.training.Tap`, which also says where they are found: state 0, here
"embeddings", is what enters the first block, and state i, "block i", what block i returns. A model of an encoder and a decoder has
both: "encoder embeddings", "encoder 1", ..., "decoder embeddings", "decoder 1", ... A module that is named gives its output.

Tokens. A state ``(B, T, d)`` has T tokens, ``(B, d)`` one. Feature maps ``(B, C, H, W)``, or with any other number of positions, have
a token of C coordinates at each position. Where the mask has another length than a state, as for speech and for characters that
are pooled, the model's own rule is used if it has one, as wav2vec 2.0 does; otherwise a token is real if the
place in the mask is that stands in the same proportion to the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simplicial_reg.training._blocks import find_stack, stacks, unwrapped
from simplicial_reg.training.tap import Tap

__all__ = ["Layers", "State", "States", "fitted", "tokens_of"]

Layers = str | Sequence[int | str]
UNEVEN = (
    "some states have another number of tokens than the attention mask has places: a token of them was taken for real if the place at "
    "the same part of the length is"
)
BLOCKS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class State(NamedTuple):
    """A hidden state as a module returned it."""

    name: str
    depth: float
    decoder: bool  # whether it is a decoder's beside an encoder, whose mask is another
    values: Tensor


class States:
    """A context manager, inside of which `read` gives the states of the latest forward.

    Args:
        model: any ``nn.Module``.
        layers: ``"all"``, or numbers of states, their names and names of modules.

    Raises:
        TypeError: for arguments of another type.
        ValueError: if there is no stack of blocks, several, or no such module.

    Attributes:
        notes: what has to be said of the choice of states.
    """

    def __init__(self, model: nn.Module, layers: Layers = "all") -> None:
        self.layers = _checked(layers)
        self.root = unwrapped(model)
        self.batch_first = all(
            module.self_attn.batch_first for module in self.root.modules() if isinstance(module, BLOCKS)
        )
        modules = dict(self.root.named_modules(remove_duplicate=False))
        self.modules = [one for one in self.layers or () if isinstance(one, str) and one and one in modules]
        self._named = Tap(model, layer=self.modules, batch_first=self.batch_first) if self.modules else None
        self._parts: list[tuple[str, Tap, Tap]] = []
        self.decoder: nn.Module | None = None
        self.notes: list[str] = []
        if self.layers is None or len(self.modules) < len(self.layers):
            self._parts = self._stacks()
        self._opened = ExitStack()

    def __enter__(self) -> States:
        with ExitStack() as opening:
            for tap in self._taps():
                opening.enter_context(tap)
            self._opened = opening.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def read(self) -> list[State]:
        """The states of the latest forward, in the order of `layers`.

        Raises:
            RuntimeError: if the forward did not reach one.
            ValueError: if there is no such layer.
        """
        numbered = [(name, values) for part in self._parts for name, values in _numbered(*part)]
        named = dict(zip(self.modules, self._named.states(), strict=True)) if self._named is not None else {}
        for tap in self._taps():
            tap.forget()
        last = max(len(numbered) - 1, 1)
        states = [
            State(name, at / last if len(numbered) > 1 else 1.0, name.startswith("decoder "), values)
            for at, (name, values) in enumerate(numbered)
        ]
        if self.layers is None:
            return states
        inside = set() if self.decoder is None else set(self.decoder.modules())
        modules = dict(self.root.named_modules(remove_duplicate=False))
        found = []
        for place, one in enumerate(self.layers):
            if one in named:
                depth = place / (len(self.layers) - 1) if len(self.layers) > 1 else 1.0
                found.append(State(str(one), depth, modules[str(one)] in inside, named[str(one)]))
            else:
                found.append(_picked(states, one))
        return found

    def _stacks(self) -> list[tuple[str, Tap, Tap]]:
        parts = {"": self.root}
        if _has_decoder(self.root):
            encoder, decoder = _part(self.root, "encoder"), _part(self.root, "decoder")
            if encoder is not None and decoder is not None:
                self.decoder = decoder
                parts = {"encoder ": encoder, "decoder ": decoder}
        elif (main := self._main_part()) is not None:
            parts = {"": main}
        for part in parts.values():
            try:
                find_stack(part)
            except ValueError as error:
                raise ValueError(_without_layers(part)) from error
        first = self.batch_first
        return [
            (prefix, Tap(part, layer=0, batch_first=first), Tap(part, layer="all", batch_first=first))
            for prefix, part in parts.items()
        ]

    def _main_part(self) -> nn.Module | None:
        """Of several stacks the one that is as long as the model's own configuration says, if one is; as in CANINE."""
        found = list(stacks(self.root, "", []))
        count = getattr(getattr(self.root, "config", None), "num_hidden_layers", None)
        main = [stack for stack in found if len(stack.blocks) == count]
        if len(found) < 2 or len(main) != 1 or main[0].enclosing[-1] is self.root:
            return None
        others = [repr(stack.name) for stack in found if stack is not main[0]]
        self.notes.append(f"the layers are those of {main[0].name!r}; name modules of {', '.join(others)} to see them")
        return main[0].enclosing[-1]

    def _taps(self) -> list[Tap]:
        named = [] if self._named is None else [self._named]
        return named + [tap for _, *taps in self._parts for tap in taps]


def tokens_of(values: Tensor, batch_first: bool = True) -> Tensor:
    """The state as tokens ``(B, T, d)``, or as it is if it is ``(B, d)`` or nested."""
    if values.is_nested or values.ndim < 3:
        return values
    if values.ndim == 3:
        return values if batch_first else values.transpose(0, 1)
    return values.flatten(2).mT


def fitted(mask: Tensor | None, state: State, tokens: Tensor, root: nn.Module) -> tuple[Tensor | None, str]:
    """The mask for tokens that may be fewer or more than it is long, and what had to be assumed, or nothing."""
    if mask is None or mask.ndim != 2 or tokens.is_nested or tokens.ndim != 3:
        return mask, ""
    wanted = tokens.shape[1]
    if mask.shape[1] == wanted:
        return mask, ""
    if state.values.ndim > 3:
        return None, ""  # positions of feature maps have no mask
    own = getattr(root, "_get_feature_vector_attention_mask", None)
    if own is not None:
        fits: Tensor = own(wanted, mask.long())
        return fits.bool(), ""
    place = (torch.arange(wanted, device=mask.device) * mask.shape[1]).div(wanted, rounding_mode="floor")
    return mask[:, place], UNEVEN


def _numbered(prefix: str, first: Tap, rest: Tap) -> list[tuple[str, Tensor]]:
    blocks = [(f"{prefix or 'block '}{at}", values) for at, values in enumerate(rest.states(), start=1)]
    try:
        return [(f"{prefix}embeddings", first.states()[0]), *blocks]
    except ValueError:  # the first block is not called with a tensor of floating numbers
        return blocks


def _picked(states: list[State], one: int | str) -> State:
    if isinstance(one, int):
        if -len(states) <= one < len(states):
            return states[one]
        raise ValueError(f"layers must be in {-len(states)}..{len(states) - 1}, for {len(states)} states; got {one}")
    for state in states:
        if state.name == one:
            return state
    known = ", ".join(repr(state.name) for state in states)
    raise ValueError(
        f"layers must hold numbers, names of modules as in model.named_modules(), or of these layers: {known}; got {one!r}"
    )


def _checked(layers: Any) -> list[int | str] | None:
    """The layers that are wanted, None for all."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(
                f'layers must be "all" or a sequence of numbers and names; got {layers!r}; use [{layers!r}]'
            )
        return None
    if not isinstance(layers, Sequence):
        raise TypeError(f'layers must be "all" or a sequence of numbers and names; got {type(layers).__name__}')
    for one in layers:
        if isinstance(one, bool) or not isinstance(one, (int, str)):
            raise TypeError(f"layers must hold ints and strs; got {type(one).__name__}")
    if not layers:
        raise ValueError('layers must name at least one layer, or be "all"; got an empty sequence')
    return list(dict.fromkeys(layers))


def _without_layers(root: nn.Module) -> str:
    found = list(stacks(root, "", []))
    listed = ", ".join(f"{stack.name!r} ({len(stack.blocks)} × {type(stack.blocks[0]).__name__})" for stack in found)
    names = [f"{stack.name}.0" for stack in found] or [name for name, _ in root.named_children()]
    such = f", such as {', '.join(map(repr, names[:4]))}" if names else ""
    return (
        f"model must have one stack of blocks, whose outputs are its layers; {type(root).__name__} has "
        f"{f'{len(found)}: {listed}' if found else 'none'}; pass layers=[...] with names of modules as in model.named_modules(){such}"
    )


def _has_decoder(root: nn.Module) -> bool:
    return isinstance(root, nn.Transformer) or bool(getattr(getattr(root, "config", None), "is_encoder_decoder", False))


def _part(root: nn.Module, name: str) -> nn.Module | None:
    get = getattr(root, f"get_{name}", None)
    part = get() if callable(get) else getattr(root, name, None)
    return part if isinstance(part, nn.Module) and part is not root else None
