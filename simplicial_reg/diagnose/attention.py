"""Attention, head by head: where the mean query and the mean key vector point, and what that does to the scores.

For queries q_i and keys k_j of one head, over real tokens, with scale c (1/√(head size) unless the model has another),

    z_ij     c q_i·k_j
    score    what the softmax sees: z_ij, where the model does so bounded (softcap) or with a bias of positions added

    query_norm, key_norm    |q̄| / mean |q|  and  |k̄| / mean |k|       in [0, 1]: 0 if the vectors are centred, 1 if all are equal
    alignment               cos(q̄, k̄)                                in [-1, 1]
    score_mean, score_std   over all pairs of a query and a key that it may attend to
    entropy                 mean over queries of H(softmax) / log n    in [0, 1], n the number of keys that the query may attend to;
                            a query with one key is left out
    mean_share              (c q̄·k̄)² / mean z²                        the part of the scores that the two mean vectors alone make
    mean_query_share        Σ (c q̄·(k_j - k̄_i))² / Σ (z_ij - z̄_i)²    k̄_i and z̄_i means over the keys that query i may attend to

The last two are different questions. A softmax does not see what is the same for all keys of a query, and c q̄·k̄ is, however much of
the scores it makes. What does act is c q̄·k_j: all queries prefer the same keys. mean_query_share is its part of the variance that the
softmax sees; 1 if every query attends alike. Neither is bounded by 1, since the means are those of all tokens and the sums over the
pairs there are; they are above it only if what is left of the scores opposes the means.

Queries and keys are taken as they enter the product: after a rotation by their position and after a normalization, if the model has
one. Of queries in groups, each head has the keys of its group. A key that a mask or a bias of -100 or less is added for is one that may not
be attended to. An additional logit that is no key's ("sink") is left out. Cross-attention is left out, and so is attention to a cache.

How they are read, the first that applies to a model:

1. What passes through the attention interface of `transformers`, and any call of ``scaled_dot_product_attention``, also in modules of
   one's own: exactly what is multiplied, with the mask. `torch.nn.MultiheadAttention` is read from its inputs, as exactly.
2. If nothing of that is called: the outputs of modules with the names of `SEPARATE` and `FUSED` projections, in modules that are not of
   `transformers`, of states (B, T, width). Then the scale is taken to be 1/√(head size), nothing to be rotated, and each token to attend
   to all, or, if the module's attribute ``is_causal`` or ``causal`` is true, to itself and those before; `AttentionTap.message` says so.

Attention that a model of `transformers` computes in another way (DeBERTa, XLNet, Longformer, GPT-J) is not read, and the message says so.

Samples. Means of vectors are over all real tokens of the sequences that are kept: all, or as many sequences as have 8,192 tokens
together in one forward, drawn by seed. Scores are those of at most 256 queries of a sequence and 2,048 of a forward, drawn by seed, each
with all its keys; where sequences have different lengths, a drawn query stands for as many as there are. They are computed in float32
(float64 if the model is), 2²² at a time, and summed in float64.

Singular input. Where there is nothing to compare the figure is NaN: alignment if a mean vector is zero, entropy if no query has two
keys, shares if all scores are zero, or equal. Zero and equal are up to rounding. Queries or keys that are NaN or infinite make the figures
of their head NaN.

Gradients: none.

Source: that anisotropy has to do with self-attention is the claim of Godey, de la Clergerie, Sagot 2024, "Anisotropy Is Inherent to
Self-Attention in Transformers"; the figures are defined here.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_count
from simplicial_reg.diagnose._scores import Call, Sums, real_tokens
from simplicial_reg.diagnose.record import Head
from simplicial_reg.training._blocks import unwrapped

__all__ = ["FUSED", "SEPARATE", "AttentionTap"]

SEPARATE = (
    ("query", "key"),
    ("q_proj", "k_proj"),
    ("q_lin", "k_lin"),
    ("to_q", "to_k"),
    ("wq", "wk"),
    ("q", "k"),
)
"""Names of the modules that make queries and keys, (..., heads × head size)."""

FUSED = ("qkv", "qkv_proj", "to_qkv", "c_attn", "in_proj", "query_key_value")
"""Names of modules that make queries, keys and values: one after the other; of query_key_value, head by head."""

BY_HEAD = "query_key_value"  # (..., heads, 3, head size), as in Megatron's models
HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads", "head_count")
CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec", re.IGNORECASE)
MOVED = re.compile(r"rotary|rotate|rope\b|_rope|alibi|relative|rel_pos|position_bias", re.IGNORECASE)
SPARSE = ("indices", "block_indices")  # arguments of attention functions that choose keys

MOST_TOKENS = 8192  # whose queries and keys are kept in one forward


class AttentionTap:
    """Reads queries, keys and scores of every head of self-attention while a model runs.

    As a context manager: hooks are on the model inside, and it is as it was outside, also after an exception. Only what is inside a
    forward of the model itself is read, and nothing of what it computes is changed; `torch.nn.TransformerEncoder` takes the way
    without its fused kernels, as it does under any hook. Code that torch.compile made before is not noticed.

    Args:
        model: any ``nn.Module``.
        seed: of the draw of sequences and queries.

    Raises:
        TypeError: for arguments of another type.
        ValueError: if the model is a DataParallel on several devices.

    Source:
        See the module.

    Example:
        >>> layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, batch_first=True)
        >>> model = nn.TransformerEncoder(layer, num_layers=3).eval()
        >>> tokens, mask = torch.randn(4, 6, 8), torch.ones(4, 6, dtype=torch.bool)
        >>> with torch.no_grad(), AttentionTap(model) as tap:
        ...     _ = model(tokens)
        ...     tap.observe(mask)
        >>> [(head.layer, head.head) for head in tap.heads]
        [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
        >>> list(tap.heads[0].measures)[:5]
        ['query_norm', 'key_norm', 'alignment', 'score_mean', 'score_std']
    """

    def __init__(self, model: nn.Module, *, seed: int = 0) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        check_count("seed", seed, 0)
        self._root = unwrapped(model)
        self._names = {module: name for name, module in self._root.named_modules()}
        self._generator = torch.Generator().manual_seed(seed)
        self._handles: list[RemovableHandle] = []
        self._running: _Forward | None = None
        self._last: _Forward | None = None
        self._inside = ExitStack()
        self._sums: dict[tuple[str, int], Sums] = {}
        self._notes: dict[str, None] = {}  # in the order of finding
        self._observed = 0

    def __enter__(self) -> AttentionTap:
        handles = [self._root.register_forward_pre_hook(self._begin)]
        for module in self._names:
            handles.append(module.register_forward_pre_hook(self._enter_module))
            if isinstance(module, nn.MultiheadAttention):
                handles.append(module.register_forward_pre_hook(self._see_multihead, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave_module))
        for parent, projections in self._projections():
            for name in projections:
                hook = functools.partial(self._see_projection, parent, name)
                handles.append(getattr(parent, name).register_forward_hook(hook))
        # In front, so that what was entered last is left first where two taps are open. always_call: also after an exception.
        handles.append(self._root.register_forward_hook(self._end, prepend=True, always_call=True))
        self._handles = handles
        return self

    def __exit__(self, *exception: object) -> None:
        self._inside.close()  # no hook is called after a KeyboardInterrupt
        for handle in self._handles:
            handle.remove()
        self._handles, self._running, self._last = [], None, None

    @torch.no_grad()
    def observe(self, mask: Tensor | None = None, decoder_mask: Tensor | None = None) -> None:
        """Add what the latest forward computed to the figures; a forward that is not observed does not count.

        Args:
            mask: ``(B, T)``, True or nonzero where the token is real; None if all are. Where attention is between other things than
                the mask is about (frames of a wave), the tokens are real that some query may attend to.
            decoder_mask: the same of a decoder's tokens, for an encoder with a decoder.

        Raises:
            RuntimeError: if the model has not run since the tap was opened or asked.
        """
        forward, self._last = self._last, None
        if forward is None:
            raise RuntimeError(
                f"there is nothing to observe: {type(self._root).__name__} has not run since the tap was opened or observed; "
                "if only a part of it is called, tap that part"
            )
        self._observed += 1
        calls = forward.calls or list(self._projected(forward))
        both = any("encoder" in call.name.split(".") for call in calls)
        for call in calls:
            own = decoder_mask if both and "decoder" in call.name.split(".") else mask
            sums = self._sums.setdefault((call.name, call.run), Sums())
            with autocast_off(call.query):
                sums.add(call, real_tokens(call, own), forward.ranks(call, self._generator))

    @property
    def heads(self) -> list[Head]:
        """A record for each head, by layer; layers and heads are numbered from 1.

        A layer is a block of the model, as `simplicial_reg.training.Tap` numbers them; those of a decoder come after the encoder's. If
        a block runs several times, each run is a layer. Where a block has several attentions, their heads are counted on.
        """
        heads: list[Head] = []
        counts: dict[int, int] = {}
        numbers = self._numbers()
        for key in sorted(self._sums, key=lambda key: numbers[key]):
            layer = numbers[key]
            for measures in self._sums[key].measures():
                counts[layer] = counts.get(layer, 0) + 1
                heads.append(Head(layer, counts[layer], measures))
        return heads

    @property
    def message(self) -> str | None:
        """Why there are no heads, or what the figures take for granted; None if there is nothing to say."""
        if self._notes:
            return "; ".join(self._notes)
        if self._sums:
            return None
        kind = type(self._root).__name__
        if not self._observed:
            return f"attention was not read: no forward of {kind} was observed"
        if any(_is_of_transformers(module) for module in self._names):
            return (
                f"attention was not read: {kind} computes it in its own way (rotations, biases, sparse patterns) or not at all, "
                "and not by transformers' attention interface or scaled_dot_product_attention"
            )
        return (
            f"attention was not read: {kind} calls neither scaled_dot_product_attention nor torch.nn.MultiheadAttention, and has no "
            f"modules named {', '.join('/'.join(pair) for pair in SEPARATE)}, or {', '.join(FUSED)}"
        )

    # --- one forward ----------------------------------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._inside.close()
        self._running, self._last = _Forward(), None
        self._inside.enter_context(_Products(self._see_product))
        modeling = sys.modules.get("transformers.modeling_utils")
        interface = getattr(modeling, "AttentionInterface", None)
        if interface is not None and hasattr(interface, "get_interface"):
            self._inside.callback(setattr, interface, "get_interface", interface.get_interface)
            interface.get_interface = self._watched(interface.get_interface)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.close()
        self._running, self._last = None, self._running if output is not None else None  # None after an exception

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if self._running is not None:
            self._running.runs[module] = self._running.runs.get(module, 0) + 1
            self._running.within.append(module)

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running is not None:
            while self._running.within and self._running.within.pop() is not module:
                pass  # a module that was left by an exception

    def _note(self, module: nn.Module, why: str) -> None:
        self._notes[f"attention of {type(module).__name__} was not read: {why}"] = None

    def _keep(self, module: nn.Module, query: Tensor, key: Tensor, **how: Any) -> None:
        """Keep one product of queries ``(B, h, T, size)`` and keys ``(B, ≤ h, T, size)``."""
        name = self._names[module]
        if self._running is None or CROSS.search(name):
            return
        if query.is_nested or query.ndim != 4 or key.ndim != 4 or query.shape[1] % key.shape[1]:
            shapes = "nested tensors" if query.is_nested else f"{tuple(query.shape)} and {tuple(key.shape)}"
            self._note(module, f"queries and keys must be (sequences, heads, tokens, head size); they are {shapes}")
        elif query.shape[2] == key.shape[2]:
            call = Call(name, self._running.runs.get(module, 1), query.detach(), key.detach(), **how)
            call.cut(self._running.sequences(call, self._generator))
            self._running.calls.append(call)

    # --- what is multiplied ---------------------------------------------------------------------------------------------------

    def _watched(self, get_interface: Callable[..., Any]) -> Callable[..., Any]:
        """The lookup of an attention function by transformers, such that calls of the function are seen."""

        def watched(interface: Any, attn_implementation: Any, default: Any) -> Any:
            function = get_interface(interface, attn_implementation, default)
            return functools.partial(self._call_interface, function, attn_implementation)

        return watched

    def _call_interface(self, function: Callable[..., Any], implementation: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("module", "query", "key", "value", "attention_mask"), args, strict=False)) | kwargs
        if self._running is None or given.get("module") not in self._names:
            return function(*args, **kwargs)
        self._see_interface(implementation, **given)
        self._running.in_interface += 1
        try:
            return function(*args, **kwargs)
        finally:
            self._running.in_interface -= 1

    def _see_interface(
        self,
        implementation: Any,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        attention_mask: Any = None,
        scaling: float | None = None,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        **others: Any,
    ) -> None:
        if attention_mask is not None and not isinstance(attention_mask, Tensor):
            self._note(
                module,
                f'a {type(attention_mask).__name__} is no tensor; load the model with attn_implementation="sdpa"',
            )
            return
        if any(others.get(name) is not None for name in SPARSE):
            self._note(module, "each query chooses its keys")
            return
        whole = attention_mask is not None and attention_mask.ndim == 4
        # As the attention functions of transformers have it: without a whole mask, eager attends to all, others ask the module.
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        self._keep(
            module,
            query,
            key,
            scale=scaling,
            mask=attention_mask,
            causal=not whole and implementation != "eager" and bool(causal),
            window=sliding_window if not whole and "flash" in str(implementation) else None,
            softcap=softcap,
            bias=position_bias,
        )

    def _see_product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if self._running is None or self._running.in_interface or not self._running.within:
            return
        module = self._running.within[-1]
        if isinstance(module, nn.MultiheadAttention):
            return
        if query.ndim == 3:  # (B × heads, T, size)
            heads = _head_count(module) or 1
            heads = heads if query.shape[0] % heads == 0 else 1
            query, key = query.unflatten(0, (-1, heads)), key.unflatten(0, (-1, heads))
            if attn_mask is not None and attn_mask.ndim == 3:
                attn_mask = attn_mask.expand(query.shape[0] * heads, -1, -1).unflatten(0, (-1, heads))
        if attn_mask is not None:
            attn_mask = attn_mask[(None,) * (4 - attn_mask.ndim)]
        self._keep(module, query, key, scale=scale, mask=attn_mask, causal=is_causal)

    # --- what is projected ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _see_multihead(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        state, other = given.get("query"), given.get("key")
        if not isinstance(state, Tensor) or not isinstance(other, Tensor):
            return  # a subclass with arguments of its own
        if other is not state and (other.shape != state.shape or not bool(torch.equal(other, state))):
            return  # cross-attention
        if module.bias_k is not None or module.add_zero_attn:
            self._note(module, "it adds a key of its own, by add_bias_kv or add_zero_attn")
            return
        if state.is_nested:
            self._note(module, "its input is nested")
            return
        state = state.detach()
        state = state.unsqueeze(0) if state.ndim == 2 else state if module.batch_first else state.transpose(0, 1)
        separate = module.in_proj_weight is None
        weights = (module.q_proj_weight, module.k_proj_weight) if separate else module.in_proj_weight.chunk(3)
        biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        query, key = (
            F.linear(state, weights[at], biases[at]).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for at in (0, 1)
        )
        mask = _excluded(given.get("attn_mask"), query.dtype)
        if mask is not None:
            mask = mask.unflatten(0, (-1, module.num_heads)) if mask.ndim == 3 else mask[None, None]
        padding = _excluded(given.get("key_padding_mask"), query.dtype)
        if padding is not None:
            padding = padding.reshape(-1, 1, 1, padding.shape[-1])
            mask = padding if mask is None else mask + padding
        self._keep(module, query, key, mask=mask)

    def _projections(self) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """Modules outside transformers that project into queries and keys, and what their parts that do it are called."""
        for module in self._names:
            if isinstance(module, nn.MultiheadAttention) or _is_of_transformers(module):
                continue
            parts = dict(module.named_children())
            known: list[tuple[str, ...]] = [*SEPARATE, *((name,) for name in FUSED)]
            found = [names for names in known if all(name in parts for name in names)]
            if found:
                yield module, found[0]

    def _see_projection(self, parent: nn.Module, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._running is not None and isinstance(output, Tensor):
            self._running.projected.setdefault((parent, self._running.runs.get(parent, 1)), {})[name] = output.detach()

    def _projected(self, forward: _Forward) -> Iterator[Call]:
        """Products of what was projected, as far as they can be known."""
        for (parent, run), outputs in forward.projected.items():
            name, kind = self._names[parent], type(parent).__name__
            if CROSS.search(name):
                continue
            if moved := self._moved(parent):
                self._note(parent, f"{moved!r} says that positions enter the scores, and how cannot be seen")
                continue
            heads = _head_count(parent, getattr(self._root, "config", None))
            if heads is None:
                self._note(parent, "the number of its heads is not known; give it an attribute num_heads")
                continue
            split = _split(outputs, heads)
            if split is None:
                shapes = ", ".join(f"{key} {tuple(output.shape)}" for key, output in outputs.items())
                self._note(parent, f"its projections do not fit {heads} heads: {shapes}")
                continue
            causal = bool(getattr(parent, "is_causal", False) or getattr(parent, "causal", False))
            self._notes[
                f"attention of {kind} was read from its projections, as if scores were q·k/√(head size) without rotation and each "
                f"token attended to {'itself and those before' if causal else 'all'}"
            ] = None
            call = Call(name, run, *split, causal=causal)
            call.cut(forward.sequences(call, self._generator))
            yield call

    def _moved(self, parent: nn.Module) -> str | None:
        """The name of a part of the model that says that scores are not simply products of projections."""
        names = [name for module in (self._root, parent) for name, _ in module.named_modules()]
        names += [
            name for module in (self._root, parent) for name, _ in (*module.named_buffers(), *module.named_parameters())
        ]
        return next((name for name in names if MOVED.search(name)), None)

    def _numbers(self) -> dict[tuple[str, int], int]:
        """The number of the layer that each attention is in, by its name and run."""
        places = {key: _place(self._root, key[0]) for key in self._sums}
        if any(run > 1 for _, run in self._sums) or None in places.values():
            order = dict.fromkeys((places[name, run] or name, run) for name, run in self._sums)
            at = {where: number for number, where in enumerate(order, 1)}
            return {(name, run): at[places[name, run] or name, run] for name, run in self._sums}
        stacks = dict.fromkeys(place[0] for place in places.values() if place is not None)
        begins, total = {}, 0
        for stack in sorted(stacks, key=list(self._names.values()).index):
            begins[stack], total = total, total + len(self._root.get_submodule(stack))  # type: ignore[arg-type]
        return {key: begins[place[0]] + place[1] + 1 for key, place in places.items() if place is not None}


class _Products(TorchFunctionMode):
    """Shows every call of scaled_dot_product_attention to a function."""

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.see(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@dataclass
class _Forward:
    """What one forward computed, and what was drawn for it."""

    calls: list[Call] = field(default_factory=list)
    projected: dict[tuple[nn.Module, int], dict[str, Tensor]] = field(default_factory=dict)
    runs: dict[nn.Module, int] = field(default_factory=dict)
    within: list[nn.Module] = field(default_factory=list)  # the modules that are running, the innermost last
    in_interface: int = 0
    drawn: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)

    def sequences(self, call: Call, generator: torch.Generator) -> Tensor | None:
        """Which sequences are kept, the same for all attentions of the same shape; None for all."""
        batch, _, tokens, _ = call.query.shape
        most = max(1, MOST_TOKENS // tokens)
        if batch <= most:
            return None
        if (batch, tokens, most) not in self.drawn:
            chosen = torch.randperm(batch, generator=generator)[:most].sort().values
            self.drawn[batch, tokens, most] = chosen
        return self.drawn[batch, tokens, most]

    def ranks(self, call: Call, generator: torch.Generator) -> Tensor:
        """A random number for each token, ``(B, T)``: the queries with the smallest are drawn."""
        shape = (call.query.shape[0], call.query.shape[2])
        ranks = self.drawn.get(shape)
        if ranks is None:
            ranks = self.drawn[shape] = torch.rand(shape, generator=generator)
        return ranks.to(call.query.device)


def _excluded(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of torch.nn.MultiheadAttention, in which True excludes, as something to add."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _head_count(module: nn.Module, config: Any = None) -> int | None:
    for source in (module, getattr(module, "config", None), config):
        for name in HEAD_COUNTS:
            count = getattr(source, name, None)
            if isinstance(count, int) and count > 0:
                return count
    return None


def _split(outputs: dict[str, Tensor], heads: int) -> tuple[Tensor, Tensor] | None:
    """Queries and keys ``(B, h, T, size)`` of what projections returned; None if they do not fit."""
    if any(output.ndim != 3 for output in outputs.values()):
        return None
    if len(outputs) == 1:
        ((name, output),) = outputs.items()
        if name not in FUSED or output.shape[-1] % (3 * heads):
            return None
        parts = output.unflatten(-1, (heads, 3, -1) if name == BY_HEAD else (3, heads, -1))
        query, key, _ = parts.unbind(-2 if name == BY_HEAD else -3)
    else:
        first, second = outputs.values()
        if next(iter(outputs)) not in [pair[0] for pair in SEPARATE]:
            first, second = second, first  # keys were projected before queries
        size = first.shape[-1] // heads
        if not size or first.shape[-1] % heads or second.shape[-1] % size or heads % (second.shape[-1] // size):
            return None
        query, key = first.unflatten(-1, (heads, -1)), second.unflatten(-1, (-1, size))
    if query.shape[:2] != key.shape[:2]:
        return None
    return query.transpose(1, 2), key.transpose(1, 2)


def _is_of_transformers(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.models.")


def _place(root: nn.Module, name: str) -> tuple[str, int] | None:
    """The stack of blocks that a module is in, the outermost, and where in it."""
    parts = name.split(".") if name else []
    for depth, part in enumerate(parts):
        stack = root.get_submodule(".".join(parts[:depth]))
        children = list(stack.children())
        alike = isinstance(stack, nn.Sequential) and len(children) > 1 and len({type(child) for child in children}) == 1
        if isinstance(stack, nn.ModuleList) or alike:
            return ".".join(parts[:depth]), list(dict(stack.named_children())).index(part)
    return None
