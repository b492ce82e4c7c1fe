"""Hidden states of a model, and the clouds of points that are made of them.

`Tap` takes them from a model while it runs, by forward hooks; `read_hidden_states` from an output of Hugging Face's that
carries ``hidden_states``. What follows is the same for both: states are selected, pooled and put together as clouds.

Which states there are. A model is a stack of L blocks, and its states are numbered as in Hugging Face's ``hidden_states``:

    state 0    what enters the first block: the output of the embeddings
    state i    the output of block i
    state L    the last: the ``last_hidden_state`` that the model returns, so after a final normalization if it has one

For language models these are the entries of ``hidden_states``. Vision and speech models (ViT, CLIP, wav2vec 2.0) may keep
the output of block L *before* the final normalization in ``hidden_states[-1]``; here it has the block's name. A block that the
forward skips (LayerDrop) hands on its input. A block that runs several times (ALBERT) counts as often as it runs. Where
nothing returns a ``last_hidden_state`` (nor is a ``torch.nn.TransformerEncoder``), the last state is the output of block L.

The stack is found by structure: the outermost ``nn.ModuleList`` of modules that have parts, or ``nn.Sequential`` of such modules
of one class. If there are several, it is the one as long as ``config.num_hidden_layers`` says, unless the model is an encoder
with a decoder; if none is or two are, one has to be named.

How a state (B, T, d) becomes points. With real tokens t of sentence b,

    cls                h[b, first real t], so that padding may be on the left too
    mean, max          over real t
    first-last-mean    half of (mean of state 0) + (mean of the last state)
    tokens             every h[b, t]

A state that is (B, d) already, such as a pooler's, is one point for each sentence. A sentence without a real token is
masked out, and padding receives no gradient, NaN or not. Half precision is pooled in float32. Nothing stops gradients: points are
part of the model's graph.

Hooks keep references and compute nothing; a tensor that the model later changes in place is read as changed. They act only inside
a forward of the tapped model, so what checkpointing computes again during backward changes nothing.

Sources: Kudriashov, Karpik, Klyshinsky 2025, "Shrink the longest" (cls, mean, first-last-mean, as in the authors' code, where
"first" is state 0); Rudman, Eickhoff 2024, "Stable anisotropic regularization" (one cloud of the tokens of all states but
the embeddings').
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simplicial_reg._checks import check_count
from simplicial_reg.training._blocks import COPIES, find_module, find_stack, returns_its_last_state, unwrapped
from simplicial_reg.training._cloud import Cloud
from simplicial_reg.training._pooling import Form, Pooling, for_each

__all__ = ["Cloud", "Tap", "read_hidden_states"]

Layer = str | int | Sequence[str | int]
# Where the state is in an output that is a dict; the last two are those of sentence-transformers.
KEYS = ("last_hidden_state", "sentence_embedding", "token_embeddings")


class Tap:
    """Reads hidden states out of a model while it runs.

    Entering opens the tap: hooks are put on the model; leaving, also by an exception, removes them and forgets what was kept.
    `open` and `close` do the same for a tap that stays. The model must be called itself: where only a part of it runs, as in
    ``model.bert(...)``, that part is what to tap. Of an encoder with a decoder, tap one: ``Tap(model.encoder)``; the whole may run.
    If nothing is read, each forward only replaces what the one before left.

    With gradient checkpointing the gradients are those without it. The reentrant kind has none for what is inside a
    checkpointed block; its output has.

    With ``torch.compile``, open the tap before the first compiled call and leave it open: compiled code does not notice hooks that
    come later. It is an error if nothing was captured because of that.

    Args:
        model: any ``nn.Module``, also wrapped by ``torch.compile``, DistributedDataParallel or PEFT.
        layer: which states: ``"last"``; ``"all"``, all but state 0; a state's number, negative from the end; a module's name as
            in ``model.named_modules()``, for the output of its last run in a forward; or a sequence of numbers, names and ``"last"``.
        pooling: ``"mean"``, ``"cls"``, ``"max"``, ``"first-last-mean"`` (which chooses its own states: leave layer as it is), ``"tokens"``,
            or a function ``(state, mask) -> (B, d)`` of a state ``(B, T, d)``, or of whatever shape the module returns, and the mask
            as bool or None.
        cloud: what makes one cloud: ``"layer"``, all points of one state; ``"union"``, all points of all states; ``"sentence"``, the
            tokens of one sentence.
        include_padding: count padding as tokens, as I-STAR was published; only for ``pooling="tokens"``.
        forwards: how many of the latest forwards are kept, to be read as one cloud: 2 where a step runs the model on pairs.
        batch_first: False if states are ``(T, B, d)``, as those of ``nn.TransformerEncoder`` by default, and of XLNet.

    Raises:
        TypeError: for arguments of another type.
        ValueError: for an unknown choice; a name that no module has; a stack of blocks that is not there, or not the only one.

    Source:
        The default is the most common sentence embedding; I-STAR is ``layer="all", pooling="tokens", cloud="union"``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, batch_first=True)
        >>> model = nn.TransformerEncoder(layer, num_layers=3)
        >>> tokens = torch.randn(4, 6, 8)  # 4 sentences of 6 tokens
        >>> with Tap(model, layer=[1, -1]) as tap:
        ...     output = model(tokens)
        ...     cloud = tap.read(mask=torch.ones(4, 6, dtype=torch.bool))
        >>> cloud.points.shape  # two clouds of four sentences
        torch.Size([2, 4, 8])
        >>> cloud.mask.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: Layer = "last",
        pooling: Pooling = "mean",
        cloud: str = "layer",
        include_padding: bool = False,
        forwards: int = 1,
        batch_first: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        check_count("forwards", forwards, 1)
        self._form = Form(pooling, cloud, include_padding, several=_is_several(layer))
        self._requests = _requests(layer, pooling)
        self._root = unwrapped(model)
        self._named = {
            name: find_module(model, self._root, name)
            for name in self._requests
            if isinstance(name, str) and name not in ("last", "all")
        }
        self._stack = find_stack(self._root) if len(self._named) < len(set(self._requests)) else None
        self._last_only = set(self._requests) == {"last"}
        self._batch_first = batch_first
        self._count = forwards
        self._check_batch_first()
        self._handles: list[RemovableHandle] = []
        self._is_open = False  # beside _handles, which torch.compile cannot look at
        self._running: _Forward | None = None
        self._forwards: list[_Forward] = []

    def open(self) -> Tap:
        """Put the hooks on the model; an open tap stays as it is. Returns the tap."""
        if self._is_open:
            return self
        handles = [self._root.register_forward_pre_hook(self._begin, prepend=True)]
        for name, module in self._named.items():
            handles.append(module.register_forward_hook(functools.partial(self._keep_named, name)))
        if self._stack is not None:
            for at, block in enumerate(self._stack.blocks):
                handles.append(block.register_forward_pre_hook(self._keep_input, with_kwargs=True))
                handles.append(block.register_forward_hook(functools.partial(self._keep_block, at)))
            for module in reversed(self._stack.enclosing):
                handles.append(module.register_forward_hook(self._keep_last))
        # The last hook on the root. always_call: after an exception the tap must not go on as if inside a forward.
        handles.append(self._root.register_forward_hook(self._end, always_call=True))
        self._handles, self._is_open = handles, True
        return self

    def close(self) -> None:
        """Remove the hooks and forget what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._is_open = [], False
        self._running = None
        self._forwards = []

    def __enter__(self) -> Tap:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model copies its hooks and so this tap. The copy is closed; what was kept cannot be copied.
        return {**self.__dict__, "_handles": [], "_is_open": False, "_running": None, "_forwards": []}

    def read(
        self,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        labels: Tensor | Sequence[Tensor] | None = None,
    ) -> Cloud:
        """The cloud of the latest forward, or of the latest `forwards` one after another, which are then forgotten.

        Args:
            mask: bool or integer ``(B, T)``, such as an attention mask: True or nonzero where the token is real; None if all are.
                ``(B,)`` will do where states are ``(B, d)``. After several forwards a sequence, one for each, the earliest first.
            labels: ``(B,)``, one for each sentence; with tokens as points, also ``(B, T)``. A sequence as for mask.

        Returns:
            For N points of each state, which are B if pooled and B T if tokens, points of shape

            - ``cloud="layer"``: ``(N, d)``, or ``(L, N, d)`` if layer is ``"all"`` or a sequence of L,
            - ``cloud="union"``: ``(L N, d)``, the first state's points first,
            - ``cloud="sentence"``: ``(L B, T, d)``, less the sentences without a real token; to leave these out, the host waits
              for an accelerator once.

        Raises:
            RuntimeError: if no forward ran since the tap was opened or read; if the forward did not reach a layer; or if a layer's
                output has no gradient although its parameters want one.
            TypeError: if mask or labels are of another type.
            ValueError: for shapes that do not fit, or a state's number that the model does not have.
        """
        if not self._forwards:
            raise RuntimeError(self._nothing_to_read())
        masks = for_each("mask", mask, len(self._forwards))
        labellings = for_each("labels", labels, len(self._forwards))
        parts = [
            self._form.points(self._select(forward), one_mask, one_labelling)
            for forward, one_mask, one_labelling in zip(self._forwards, masks, labellings, strict=True)
        ]
        cloud = self._form.cloud_of(parts)
        self._forwards = []
        return cloud

    def states(self) -> list[Tensor]:
        """The hidden states that `read` would pool, as the model passed them on, forward by forward; they are not forgotten.

        Raises:
            RuntimeError: as `read`.
        """
        if not self._forwards:
            raise RuntimeError(self._nothing_to_read())
        return [state for forward in self._forwards for state in self._found(forward)]

    def forget(self) -> None:
        """Let go of what the latest forwards computed, without reading it."""
        self._forwards = []

    @property
    def with_gradient(self) -> bool:
        """Whether any of the forwards that `read` would read ran with gradients on."""
        return any(forward.with_gradient for forward in self._forwards)

    def _begin(self, module: nn.Module, args: Any) -> None:
        if getattr(module, "_is_replica", False):  # of a DataParallel that was put around the model after the tap
            raise ValueError(COPIES)
        self._running = _Forward(torch.is_grad_enabled()) if self._is_open else None

    def _keep_named(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._running is not None:
            self._running.named[name] = _state_of(output, f"layer {name!r}")

    def _keep_input(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._running is not None and self._running.first is None and not self._last_only:
            self._running.first = _first_tensor((*args, kwargs.get("hidden_states"), *kwargs.values()))

    def _keep_block(self, at: int, module: nn.Module, args: Any, output: Any) -> None:
        if self._running is not None:
            if self._last_only:
                self._running.blocks = []  # so that without gradients the others are freed as soon as the model is done with them
            self._running.blocks.append((at, _state_of(output, f"block {at + 1}")))

    def _keep_last(self, module: nn.Module, args: Any, output: Any) -> None:
        # Which of these fits is found out when reading: looking at shapes here, torch.compile would compile for each shape.
        if self._running is not None:
            state = getattr(output, "last_hidden_state", None)
            if state is None and returns_its_last_state(module):
                state = output[0] if isinstance(output, tuple) else output
            if state is not None:
                self._running.returned.append(state)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running is not None:
            if output is not None:  # None after an exception
                self._forwards = [*self._forwards, self._running][-self._count :]
            self._running = None

    def _select(self, forward: _Forward) -> list[Tensor]:
        """The states that were asked for, each ``(B, d)`` or ``(B, T, d)``."""
        found = self._found(forward)
        return found if self._batch_first else [state.transpose(0, 1) if state.ndim > 2 else state for state in found]

    def _found(self, forward: _Forward) -> list[Tensor]:
        """The states that were asked for, as they came."""
        if self._named.keys() - forward.named.keys() or (self._stack is not None and not forward.blocks):
            raise RuntimeError(self._nothing_reached(forward))
        states = forward.states(0 if self._stack is None else len(self._stack.blocks))
        found: list[Tensor] = []
        for request in self._requests:
            found += [forward.named[request]] if request in self._named else _pick(states, request)
        if forward.with_gradient and torch.is_grad_enabled():
            self._check_gradient(forward, found)
        return found

    def _check_gradient(self, forward: _Forward, found: list[Tensor]) -> None:
        kept = [(repr(name), self._named[name], state) for name, state in forward.named.items()]
        if self._stack is not None:
            kept += [(f"block {at + 1}", self._stack.blocks[at], state) for at, state in forward.blocks]
        for name, module, state in kept:
            if state.requires_grad or not any(state is one for one in found):
                continue
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise RuntimeError(
                    f"the output of {name} has no gradient, although its parameters want one: it was computed without "
                    "gradients inside the forward, as reentrant checkpointing does with the inside of a block; checkpoint with "
                    "use_reentrant=False or tap the block, and read under torch.no_grad() what is only to be measured"
                )

    def _check_batch_first(self) -> None:
        for module in (*self._named.values(), *(self._stack.blocks if self._stack else ())):
            if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)):
                module = module.layers[0]
            if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
                first = bool(module.self_attn.batch_first)
                if first != self._batch_first:
                    raise ValueError(
                        f"batch_first must be {first}, as {type(module).__name__} of this model has it; got {self._batch_first}"
                    )

    def _nothing_to_read(self) -> str:
        if not self._is_open:
            return "there is nothing to read: the tap is closed; use it as `with Tap(...) as tap:`, or open it"
        return (
            f"there is nothing to read: {type(self._root).__name__} has not run since the tap was opened or read; "
            "if only a part of it is called, tap that part"
        )

    def _nothing_reached(self, forward: _Forward) -> str:
        missing = sorted(self._named.keys() - forward.named.keys())
        what = " and ".join(map(repr, missing)) if missing else "any block of the stack"
        return (
            f"{type(self._root).__name__} ran, but its forward did not reach {what}; if it was compiled before the tap was "
            "opened, open the tap first, or call torch.compiler.reset()"
        )


def read_hidden_states(
    output: Any,
    *,
    layer: Layer = "last",
    pooling: Pooling = "mean",
    cloud: str = "layer",
    include_padding: bool = False,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
) -> Cloud:
    """The cloud of hidden states that a model returned.

    Args:
        output: an output with ``hidden_states``, as Hugging Face's models return with ``output_hidden_states=True``, or the states
            themselves, state 0 first. The last state is the output's ``last_hidden_state`` if it has one.
        layer: as for `Tap`, but without modules' names.
        pooling: as for `Tap`.
        cloud: as for `Tap`.
        include_padding: as for `Tap`.
        mask: as for `Tap.read`.
        labels: as for `Tap.read`.

    Returns:
        As `Tap.read`.

    Raises:
        TypeError: for arguments of another type.
        ValueError: if there are no hidden states, for an unknown choice, and for shapes that do not fit.

    Example:
        >>> import torch
        >>> states = [torch.zeros(2, 3, 4), torch.ones(2, 3, 4)]  # embeddings and one block: 2 sentences, 3 tokens
        >>> read_hidden_states(states, pooling="first-last-mean").points
        tensor([[0.5000, 0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])
        >>> read_hidden_states(states, layer="all", pooling="tokens", cloud="union").points.shape
        torch.Size([6, 4])
    """
    form = Form(pooling, cloud, include_padding, several=_is_several(layer))
    states = _returned_states(output)
    found: list[Tensor] = []
    for request in _requests(layer, pooling):
        found += _pick(states, request)
    return form.cloud_of([form.points(found, mask, labels)])


@dataclass
class _Forward:
    """References to what one forward computed."""

    with_gradient: bool
    first: Tensor | None = None
    blocks: list[tuple[int, Tensor]] = field(default_factory=list)  # (which block, its output) in the order of running
    returned: list[Any] = field(default_factory=list)  # what may be the last state, the innermost module's first
    named: dict[str, Tensor] = field(default_factory=dict)

    def states(self, count: int) -> list[Tensor | None]:
        """State 0 and those after the blocks, of which there are `count`; None for state 0 if it is not known."""
        if not self.blocks:
            return []
        outputs = dict(self.blocks)
        states: list[Tensor | None] = [self.first]
        if len(outputs) < len(self.blocks):  # some block ran repeatedly: the runs are the layers
            states += [state for _, state in self.blocks]
        else:
            for at in range(count):
                states.append(outputs.get(at, states[-1]))
        block = self.blocks[-1][1]
        for state in self.returned:
            # What has another shape is a pooled vector, or another part's. A nested tensor has no shape.
            if isinstance(state, Tensor) and (block.is_nested or state.shape == block.shape):
                states[-1] = state
        return states


def _is_several(layer: Layer) -> bool:
    return layer == "all" or not isinstance(layer, (str, int))


def _requests(layer: Any, pooling: Pooling) -> tuple[str | int, ...]:
    """The states that are wanted, one by one, or "all"."""
    if pooling == "first-last-mean":
        if layer != "last":
            raise ValueError(
                f'layer must be left at "last" for pooling="first-last-mean", which reads states 0 and -1; got {layer!r}'
            )
        return (0, "last")
    several = isinstance(layer, Sequence) and not isinstance(layer, str)
    wanted = tuple(layer) if several else (layer,)
    if not wanted:
        raise ValueError("layer must name at least one state; got an empty sequence")
    for one in wanted:
        if isinstance(one, bool) or not isinstance(one, (str, int)):
            raise TypeError(f"layer must be a str, an int, or a sequence of these; got {type(one).__name__}")
    if several and "all" in wanted:
        raise ValueError(f'layer must be "all" alone or a sequence without it; got {layer!r}')
    return wanted


def _pick(states: Sequence[Tensor | None], request: str | int) -> list[Tensor]:
    """What one request stands for, among the states from 0 on."""
    if request == "all":
        picked = list(states[1:])
    elif request == "last":
        picked = [states[-1]]
    elif isinstance(request, str):
        raise ValueError(
            f'layer must be "last", "all" or a number where there is no model to name modules of; got {request!r}'
        )
    elif -len(states) <= request < len(states):
        picked = [states[request]]
    else:
        raise ValueError(
            f"layer must be in {-len(states)}..{len(states) - 1}, for {len(states) - 1} blocks; got {request}"
        )
    found = [state for state in picked if state is not None]
    if len(found) < len(picked) or not found:
        raise ValueError(f"layer={request!r} is not among the states: the model did not give it")
    return found


def _returned_states(output: Any) -> list[Tensor | None]:
    states = output if isinstance(output, (list, tuple)) else getattr(output, "hidden_states", None)
    if not states:
        raise ValueError(
            f"output must have hidden_states; {type(output).__name__} has none; call the model with output_hidden_states=True"
        )
    found: list[Tensor | None] = []
    for at, state in enumerate(states):
        if state is not None and not isinstance(state, Tensor):
            raise TypeError(f"hidden states must be tensors; number {at} is {type(state).__name__}")
        found.append(state)
    last = getattr(output, "last_hidden_state", None)
    if last is not None and (found[-1] is None or last.shape == found[-1].shape):
        found[-1] = last
    return found


def _state_of(output: Any, what: str) -> Tensor:
    """The hidden state in what a module returned."""
    for key in KEYS:
        inner = output.get(key) if isinstance(output, dict) else getattr(output, key, None)
        if inner is not None:
            output = inner
            break
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"the output of {what} must be, or begin with, a floating-point tensor; got {got}")
    return output


def _first_tensor(values: Sequence[Any]) -> Tensor | None:
    return next((value for value in values if isinstance(value, Tensor) and value.is_floating_point()), None)
