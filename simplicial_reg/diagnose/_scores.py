"""The figures of attention heads, from queries and keys that met; `simplicial_reg.diagnose.attention` has the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicial_reg._checks import HALF

__all__ = ["Call", "Sums", "real_tokens"]

MOST_QUERIES = 2048  # whose scores are computed in one forward
MOST_QUERIES_OF_A_SEQUENCE = 256
EXCLUDES = -100.0  # added to a score: what Swin's shifted windows have; others have -inf or their type's least number
BLOCK = 2**22  # scores at a time


@dataclass
class Call:
    """Queries and keys that met, and what was done to their products."""

    name: str
    run: int
    query: Tensor  # (B, h, T, size)
    key: Tensor
    scale: float | None = None
    mask: Tensor | None = None  # 4-D, bool or added to the scores; (B, T) for keys
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    bias: Tensor | None = None
    batch: int = 0  # how many sequences there were
    rows: Tensor | None = None  # which of them are kept; None for all

    def cut(self, rows: Tensor | None) -> None:
        """Keep some of the sequences only."""
        self.batch, self.rows = self.query.shape[0], rows
        for name in ("query", "key", "mask", "bias"):
            tensor = getattr(self, name)
            if tensor is not None:
                tensor = tensor.cpu() if tensor.device.type == "mps" else tensor  # which has no float64
                if rows is not None and tensor.shape[0] == self.batch:
                    tensor = tensor[rows.to(tensor.device)]
                setattr(self, name, tensor)

    def allowed(self, real: Tensor) -> Tensor:
        """Which keys each query may attend to: bool ``(1 or B, 1 or h, 1 or T, T)``."""
        allowed = real[:, None, None, :]
        if self.mask is not None and self.mask.ndim == 4:
            allowed = allowed & (self.mask if self.mask.dtype == torch.bool else _is_open(self.mask))
        elif self.mask is not None:
            allowed = allowed & self.mask.bool()[:, None, None, :]
        if self.causal or self.window is not None:
            at = torch.arange(real.shape[1], device=real.device)
            behind = at[:, None] - at
            if self.causal:
                allowed = allowed & (behind >= 0)
            if self.window is not None:
                allowed = allowed & (behind.abs() < self.window)
        return allowed

    def biases(self) -> list[Tensor]:
        """What is added to the scores, each ``(1 or B, 1 or h, 1 or T, T)``, zero where the mask excludes."""
        added = [self.mask] if self.mask is not None and self.mask.ndim == 4 and self.mask.is_floating_point() else []
        added += [] if self.bias is None else [self.bias]
        return [torch.where(_is_open(one), one, 0) for one in added]


class Sums:
    """What the figures of the heads of one attention are made of, in float64."""

    def __init__(self) -> None:
        self.of: dict[str, Tensor] = {}
        self.tolerance = 0.0  # what is so small beside its terms is zero

    def add(self, call: Call, real: Tensor, ranks: Tensor) -> None:
        query, key = _computable(call.query, real), _computable(call.key, real)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        query = query * (query.shape[-1] ** -0.5 if call.scale is None else call.scale)
        self.tolerance = 4 * torch.finfo(query.dtype).eps
        self._sum("tokens", real.sum().double())
        for name, vectors in (("query", query), ("key", key)):
            self._sum(name, vectors.double().sum((0, 2)))
            self._sum(f"{name}_norm", vectors.norm(dim=-1).double().sum((0, 2)))
        queries = _drawn(real, ranks)
        weights = real.gather(1, queries).to(query.dtype)
        weights = weights * (real.sum(1) / weights.sum(1).clamp(min=1)).to(query.dtype)[:, None]
        allowed, biases = call.allowed(real), [bias.to(query) for bias in call.biases()]
        centre = key.sum(2, keepdim=True) / real.sum(1).clamp(min=1)[:, None, None, None]
        centred = torch.where(real[:, None, :, None], key - centre, 0)
        softcap = call.softcap
        for part, at in _blocks(query.shape, queries.shape[1]):
            rows = queries[part, at]
            products = _rows(query[part], rows) @ key[part].mT
            scores = products if softcap is None else softcap * torch.tanh(products / softcap)
            for bias in biases:
                scores = scores + _rows(_part(bias, part), rows)
            self._add_scores(
                products, scores, _rows(_part(allowed, part), rows), weights[part, at].unsqueeze(1), centred[part]
            )

    def _add_scores(self, products: Tensor, scores: Tensor, allowed: Tensor, weights: Tensor, centred: Tensor) -> None:
        """Add scores ``(b, h, i, T)`` of drawn queries, of which each stands for some, weights ``(b, 1, i)``."""
        count = allowed.sum(-1).to(scores.dtype)
        weights = torch.where(count > 0, weights, 0)
        mean, square = _moments(scores, allowed, count)
        self._sum("pairs", weights * count)
        self._sum("score", weights * count * mean.double())
        self._sum("score_square", weights * (square.double() + count * mean.double().square()))
        if products is not scores:
            mean, square = _moments(products, allowed, count)
        self._sum("product_square", weights * (square.double() + count * mean.double().square()))
        self._sum("product_spread", weights * square.double())

        several = torch.where(count > 1, weights, 0)
        entropy = _entropy(scores, allowed) / count.clamp(min=2).log()
        self._sum("queries", several)
        self._sum("entropy", several * entropy.double())

        # sum over queries of the scatter of their keys: with it q̄·(k_j - k̄_i) need not wait until q̄ is known.
        use = (weights.unsqueeze(-1) * allowed).sum(-2)
        means = (allowed.to(centred.dtype) @ centred) / count.clamp(min=1).unsqueeze(-1)
        scatter = (centred * use.unsqueeze(-1)).mT @ centred - (means * (weights * count).unsqueeze(-1)).mT @ means
        self._sum("scatter", scatter.double().sum(0))

    def _sum(self, name: str, value: Tensor) -> None:
        if value.ndim == 3 and name != "scatter":  # (b, h, i)
            value = value.double().sum((0, 2))
        self.of[name] = self.of[name] + value if name in self.of else value

    def measures(self) -> list[dict[str, float]]:
        """The figures of each head."""
        of = {name: value.cpu() for name, value in self.of.items()}
        query, key = of["query"] / of["tokens"], of["key"] / of["tokens"]
        query_norm = query.norm(dim=-1) / (of["query_norm"] / of["tokens"])
        key_norm = key.norm(dim=-1) / (of["key_norm"] / of["tokens"])
        score = of["score"] / of["pairs"]
        of_means = (query * key).sum(-1)
        mean_square = of["product_square"] / of["pairs"]
        spread = of["product_spread"]
        along = torch.einsum("hd,hde,he->h", query, of["scatter"].expand(len(query), -1, -1), query)
        zero_mean = torch.minimum(query_norm, key_norm) <= self.tolerance
        equal = spread <= self.tolerance**2 * of["product_square"]
        values = {
            "query_norm": query_norm.clamp(max=1),
            "key_norm": key_norm.clamp(max=1),
            "alignment": _unless(zero_mean, (of_means / (query.norm(dim=-1) * key.norm(dim=-1))).clamp(-1, 1)),
            "score_mean": score,
            "score_std": (of["score_square"] / of["pairs"] - score.square()).clamp(min=0).sqrt(),
            "entropy": (of["entropy"] / of["queries"]).clamp(0, 1),
            "mean_share": of_means.square() / mean_square,
            "mean_query_share": _unless(equal, along.clamp(min=0) / spread),
        }
        columns = {name: value.expand(len(query)).tolist() for name, value in values.items()}
        return [
            {name: column[at] if math.isfinite(column[at]) else math.nan for name, column in columns.items()}
            for at in range(len(query))
        ]


def _moments(values: Tensor, allowed: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each row over the keys that are allowed, and the sum of squares about it: differences, which do not cancel."""
    mean = torch.where(allowed, values, 0).sum(-1) / count.clamp(min=1)
    return mean, torch.where(allowed, values - mean.unsqueeze(-1), 0).square().sum(-1)


def _entropy(scores: Tensor, allowed: Tensor) -> Tensor:
    """Entropy of the softmax of each row, in nats; 0 where nothing is allowed."""
    peak = scores.masked_fill(~allowed, -math.inf).amax(-1, keepdim=True)
    below = torch.where(allowed, scores - peak, 0)
    parts = below.exp() * allowed
    total = parts.sum(-1).clamp(min=1)  # the peak itself makes 1
    return total.log() - (parts * below).sum(-1) / total


def _blocks(shape: torch.Size, queries: int) -> Iterator[tuple[slice, slice]]:
    """Slices of sequences and of drawn queries, of at most `BLOCK` scores where one query has no more."""
    batch, heads, tokens, _ = shape
    few = max(1, min(queries, BLOCK // (heads * tokens)))
    many = max(1, BLOCK // (heads * tokens * few))
    for first in range(0, batch, many):
        for at in range(0, queries, few):
            yield slice(first, first + many), slice(at, at + few)


def _drawn(real: Tensor, ranks: Tensor) -> Tensor:
    """Which queries of each sequence are drawn, ``(B, m)``; real ones as long as there are."""
    batch, tokens = real.shape
    most = min(tokens, MOST_QUERIES_OF_A_SEQUENCE, max(1, MOST_QUERIES // batch))
    return ranks.masked_fill(~real, 2.0).topk(most, largest=False).indices.sort(-1).values


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows ``(b, i)`` of ``(1 or b, h, 1 or T, n)``: ``(b, h, i, n)``."""
    tensor = tensor.expand(rows.shape[0], -1, -1, -1)
    if tensor.shape[2] == 1:
        return tensor.expand(-1, -1, rows.shape[1], -1)
    return tensor.gather(2, rows[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))


def _part(tensor: Tensor, part: slice) -> Tensor:
    return tensor if tensor.shape[0] == 1 else tensor[part]


def _unless(singular: Tensor, values: Tensor) -> Tensor:
    return torch.where(singular, math.nan, values)


def _computable(vectors: Tensor, real: Tensor) -> Tensor:
    vectors = vectors.float() if vectors.dtype in HALF else vectors
    return torch.where(real[:, None, :, None], vectors, 0)


def real_tokens(call: Call, mask: Tensor | None) -> Tensor:
    """Which tokens are real, bool ``(B, T)``, of the sequences that are kept."""
    shape = (call.query.shape[0], call.query.shape[2])
    device = call.query.device
    if mask is not None and mask.shape == (call.batch, shape[1]):
        kept = mask if call.rows is None else mask[call.rows.to(mask.device)]
        return kept.to(device).bool()
    everything = torch.ones(shape, dtype=torch.bool, device=device)
    if call.mask is None:
        return everything
    seen = call.allowed(everything).any(2).any(1)
    return seen.expand(shape)


def _is_open(added: Tensor) -> Tensor:
    """Where what is added to scores does not exclude."""
    return added > EXCLUDES
