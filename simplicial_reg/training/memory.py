"""Enough points for a barcode, where the batch is small; and few enough, where it is large.

The barcode of eight points says next to nothing, and many models are trained with batches of eight. Two ways out, and the
way back:

                     gradient of the loss                               price
    PointMemory      of the current points, earlier ones constant       earlier points are those of an earlier model
    GradientCache    exact: that of all micro-batches as one cloud      one more forward pass, without graph
    subsample        exact, of the chosen points                        the others have no gradient at this step

*Memory.* The cloud is the current batch and the last points of earlier ones, which are constants. The gradient is the partial
derivative of the loss of that cloud with respect to the current points. It differs from the gradient of a large batch in
two ways: earlier points do not move, and they come from parameters that have changed since. Wang et al. observe that they change
slowly ("slow drift") except at the beginning of training. It is not for losses of directions, such as the mean cosine: that of
current points with earlier ones is lowered by turning all current points away from them, together, and the cloud is none the wider
for it.

*Caching.* Let points x_1, ..., x_m of the micro-batches depend on the parameters t, and R be the loss of their union. Then

    dR/dt = sum over i of (dx_i/dt)^T g_i,    g_i = dR/dx_i, evaluated at x_1, ..., x_m.

The g_i need the points only, not the graphs that made them. So a first pass computes all points without a graph, R is
differentiated once, and a second pass runs each micro-batch again with its graph and sends g_i into it, together with the
micro-batch's own task loss: no third pass. Both passes must make the same points. States of the random generators (torch on
the CPU and on accelerators, Python, NumPy) are therefore replayed, for dropout. A layer that mixes the points of a batch, such as
BatchNorm, sees micro-batches in both passes: the gradient is that of the union of the micro-batches, which is then not the one of a
large batch, and running statistics are updated twice.

*Fewer points.* A uniform sample is unbiased for what is an average over points, and a barcode is none: outliers and small clusters are
mostly missed, and all bars grow as points get fewer. Points that are each farthest from those before (Gonzalez 1985) cover the
cloud instead. If every point is within r of the sample, the bottleneck distance between the two Vietoris-Rips barcodes is at most 2 r, in
every dimension: bars longer than 4 r have a counterpart whose ends differ by at most 2 r. For farthest points r is at most twice the
smallest that any sample of that size has. A random sample has no such bound.

Sources: Wang, Zhang, Huang, Scott 2020, "Cross-Batch Memory for Embedding Learning" (the memory); Gao, Zhang, Han, Callan 2021,
"Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (gradient caching); Gonzalez 1985, "Clustering to minimize
the maximum intercluster distance" (farthest points); Chazal, de Silva, Oudot 2014, "Persistence stability for geometric
complexes" (the bound, with the Gromov-Hausdorff distance, which is at most r).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from simplicial_reg._autocast import autocast_off
from simplicial_reg._checks import check_choice, check_count, runs_kernels
from simplicial_reg.training._cloud import Cloud, as_cloud
from simplicial_reg.training._randomness import States, random_states, set_random_states

__all__ = ["STRATEGIES", "GradientCache", "PointMemory", "cached_backward", "subsample"]


STRATEGIES = ("random", "farthest")


class PointMemory(nn.Module):
    """The last `size` points of earlier batches, to be put before the current ones.

    In training mode every call stores the current points, detached; in evaluation mode nothing is stored. Only finite real points
    are: a batch that overflowed is seen in its own step, and not in the next hundred. The state is in buffers, so that it is
    saved, loaded and moved with the model; before the first call there is none.

    A call costs one copy of the memory, and no host waits for an accelerator: the shape of the result does not depend on
    how full the memory is.

    On several devices, gather first and remember then (`simplicial_reg.training.distributed.gather_points`), and leave the
    memory out of the module that DDP wraps, because DDP overwrites buffers with those of rank 0.

    Args:
        size: how many points are kept, at least 1; for a batch of clouds, in each of them.

    Raises:
        TypeError: if size is not an int.
        ValueError: if size is less than 1.

    Source:
        The queue of Wang et al. 2020, section 3.2.

    Example:
        >>> import torch
        >>> memory = PointMemory(3)
        >>> _ = memory(torch.tensor([[0.0], [1.0]]))
        >>> cloud = memory(torch.tensor([[2.0], [3.0]]))
        >>> cloud.points[cloud.mask].squeeze(-1)
        tensor([0., 1., 2., 3.])
        >>> cloud = memory(torch.tensor([[4.0]]))  # 0 is forgotten
        >>> cloud.points[cloud.mask].squeeze(-1)
        tensor([1., 2., 3., 4.])
    """

    points: Tensor | None
    mask: Tensor | None
    labels: Tensor | None

    def __init__(self, size: int) -> None:
        super().__init__()
        check_count("size", size, 1)
        self.size = size
        for name in Cloud._fields:
            self.register_buffer(name, None)

    def forward(self, points: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> Cloud:
        """Earlier points and current ones as one cloud.

        Args:
            points: floating tensor ``(n, d)``, or ``(B, n, d)`` for clouds that are remembered apart, such as layers; B and
                d are those of the first call. Half precision becomes float32, as everywhere.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
            labels: integer ``(n,)`` or ``(B, n)``, at every call or at none.

        Returns:
            Points ``(..., size + n, d)``, the current ones last; a mask, False where the memory is still empty; labels
            int64, or None.

        Raises:
            TypeError: for points, mask or labels of the wrong type.
            ValueError: for shapes that do not fit each other or what is remembered, and labels at some calls only.
        """
        current = as_cloud(points, mask, labels)
        earlier = self._fitting(current)
        joined = Cloud(
            torch.cat([earlier.points, current.points], -2),
            torch.cat([_mask_of(earlier), _mask_of(current)], -1),
            None if earlier.labels is None else torch.cat([earlier.labels, cast(Tensor, current.labels)], -1),
        )
        if self.training:
            self._store(joined)
        return joined

    def reset(self) -> None:
        """Forget everything, also shape and type."""
        self.points = self.mask = self.labels = None

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"size={self.size}"

    def _fitting(self, current: Cloud) -> Cloud:
        """What is remembered, on the device and in the type of the current points."""
        points = current.points
        if self.points is None:
            shape = (*points.shape[:-2], self.size)
            labels = None if current.labels is None else current.labels.new_zeros(shape)
            mask = torch.zeros(shape, dtype=torch.bool, device=points.device)
            return Cloud(points.new_zeros(*shape, points.shape[-1]), mask, labels)
        remembered, size = self.points.shape, self.points.shape[-2]
        if (*remembered[:-2], remembered[-1]) != (*points.shape[:-2], points.shape[-1]):
            wanted = ", ".join([*map(str, remembered[:-2]), "n", str(remembered[-1])])
            raise ValueError(
                f"points must have shape ({wanted}), as at the first call, to stand with the {size} points that are "
                f"remembered; got {tuple(points.shape)}; reset() forgets them"
            )
        if (self.labels is None) != (current.labels is None):
            was, is_now = ("without", "with") if self.labels is None else ("with", "without")
            raise ValueError(
                f"labels must be given at every call or at none; the memory was filled {was}, and this call is "
                f"{is_now}; reset() forgets the points"
            )
        labels = None if self.labels is None else self.labels.to(points.device)
        return Cloud(self.points.to(points), cast(Tensor, self.mask).to(points.device), labels)

    @torch.no_grad()
    def _store(self, joined: Cloud) -> None:
        points = joined.points.detach()
        real = _mask_of(joined) & points.isfinite().all(-1)
        # A stable sort puts the real points last in the order they came, so the last ones are the latest. A ring that is
        # written at a position would need the number of real points, and the host would wait for it.
        latest = real.to(torch.uint8).argsort(dim=-1, stable=True)[..., -self.size :]
        self.mask = real.gather(-1, latest)
        self.points = torch.where(self.mask.unsqueeze(-1), _rows(points, latest), 0)
        self.labels = None if joined.labels is None else joined.labels.gather(-1, latest)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored = {name: state_dict.get(prefix + name) for name in Cloud._fields}
        if stored["points"] is not None and stored["points"].shape[-2] != self.size:
            error_msgs.append(
                f"PointMemory(size={self.size}) cannot take the state of one of size {stored['points'].shape[-2]}"
            )
            return
        for name, tensor in stored.items():  # torch copies into tensors, and a new memory does not know their shape
            setattr(self, name, None if tensor is None else torch.empty_like(tensor))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class GradientCache:
    """The exact gradient of a loss of all micro-batches' points, with the graph of one micro-batch at a time.

    The sum of the shares over the micro-batches is the loss of the union, in value and in gradient. What divides each
    micro-batch's loss by their number m (accelerate and the Hugging Face trainer do) divides the shares too: there, multiply
    a share by m to keep the penalty whole.

    Within an autocast region it is safe: the copies of the weights that autocast keeps are thrown away after the first pass, which
    in older versions of torch would have left the second one without gradients. With a loss that is scaled (float16), the cached gradient
    is unscaled and in float32, and is scaled on its way into the points.

    Args:
        loss: called as ``loss(points, mask=mask, labels=labels)``, once in every step, and returns a scalar: a regularizer, or a
            function that gathers the points of all devices before it calls one.

    Source:
        Gao et al. 2021, section 3; the derivation is in the module's docstring.

    Example:
        >>> import torch
        >>> from simplicial_reg import entropy_deficit, rips_barcode
        >>> def deficit(points, *, mask=None, labels=None):
        ...     return entropy_deficit(rips_barcode(points, mask=mask)[0])
        >>> model = torch.nn.Linear(3, 2)
        >>> batches = torch.randn(4, 8, 3)
        >>> cache = GradientCache(deficit)
        >>> for batch in batches:
        ...     with cache.collecting():
        ...         cache.add(model(batch))
        >>> for batch in batches:
        ...     with cache.replaying():
        ...         points = model(batch)
        ...         task_loss = points.square().mean()
        ...         (task_loss / 4 + 0.1 * cache.share(points)).backward()
        >>> expected = deficit(model(batches.flatten(0, 1)))
        >>> bool(torch.isclose(cache.penalty, expected))
        True
    """

    penalty: Tensor | None
    """The loss of the last union that was differentiated, detached."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss = loss
        self.penalty = None
        self.reset()

    def __len__(self) -> int:
        """Number of micro-batches that are collected."""
        return len(self._clouds)

    def reset(self) -> None:
        """Drop what is collected, as after an exception. It happens by itself when the last micro-batch is replayed."""
        self._clouds: list[Cloud] = []
        self._states: list[States] = []
        self._gradients: Sequence[Tensor] = ()
        # States of the generators at the start of the micro-batch that is collected.
        self._entered: States | None = None
        self._replayed = 0
        # Whether the micro-batch that is replayed has its share; None: none is replayed.
        self._shared: bool | None = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """First pass over one micro-batch: no graph is made, and what is drawn at random can be drawn again.

        Raises:
            RuntimeError: if the replay has begun, or `add` is not called once inside.
        """
        if self._gradients:
            raise RuntimeError(
                f"{self._replayed} of {len(self)} micro-batches are replayed; replay the others before the next ones are "
                "collected, or call reset()"
            )
        wanted = len(self) + 1
        self._entered = random_states()
        try:
            with torch.no_grad():
                yield
        finally:
            self._entered = None
            # Autocast keeps its copies of the weights; those made without a graph must not serve the second pass.
            torch.clear_autocast_cache()
        if len(self) != wanted:
            raise RuntimeError("add() must be called inside `with cache.collecting():`, with the micro-batch's points")

    def add(self, points: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Take the points of the micro-batch that is collected.

        Args:
            points: floating tensor ``(n, d)`` or ``(B, n, d)``; n may differ between micro-batches.
            mask: bool ``(n,)`` or ``(B, n)``, True where the point is real; None where all are.
            labels: integer ``(n,)`` or ``(B, n)``, for every micro-batch or for none.

        Raises:
            RuntimeError: outside of `collecting`.
            TypeError: for points, mask or labels of the wrong type.
            ValueError: for wrong shapes, and labels of some micro-batches only.
        """
        if self._entered is None:
            raise RuntimeError("add() must be called inside `with cache.collecting():`, once")
        cloud = as_cloud(points, mask, labels)
        first = self._clouds[0] if self._clouds else cloud
        if (cloud.labels is None) != (first.labels is None):
            raise ValueError("labels must be given for every micro-batch or for none")
        if _without_n(cloud.points) != _without_n(first.points):
            raise ValueError(
                f"points of all micro-batches must agree in all but their number; the first has {tuple(first.points.shape)}, "
                f"this one {tuple(cloud.points.shape)}"
            )
        self._clouds.append(cloud._replace(points=cloud.points.detach()))
        self._states.append(self._entered)
        self._entered = None

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Second pass over the next micro-batch, in the order of the first: what was drawn at random is drawn again.

        The states of the generators are afterwards those from before, so that the second pass leaves no trace in them.

        Raises:
            RuntimeError: if nothing is collected, or `share` is not called once inside.
        """
        if not self._clouds:
            raise RuntimeError("no micro-batch is collected, or all are replayed; run the first pass with collecting()")
        if not self._gradients:
            self._differentiate()
        outside = random_states()
        set_random_states(self._states[self._replayed])
        self._shared = False
        try:
            yield
            shared = self._shared
        finally:
            self._shared = None
            set_random_states(outside)
        if not shared:
            raise RuntimeError("share() must be called inside `with cache.replaying():`, or its penalty is lost")
        self._replayed += 1
        if self._replayed == len(self):
            self.reset()

    def share(self, points: Tensor) -> Tensor:
        """This micro-batch's share of the penalty.

        Args:
            points: the points of the micro-batch, with their graph: those of the first pass once more.

        Returns:
            A scalar: the penalty over the number of micro-batches, whose gradient is that of the whole penalty with respect to
            these points.

        Raises:
            RuntimeError: outside of `replaying`, or when called twice.
            ValueError: if the points are not those of the first pass. Values are compared on the CPU only, because an
                accelerator would have to be waited for.
        """
        if self._shared is not False:
            raise RuntimeError("share() must be called inside `with cache.replaying():`, once")
        penalty, cloud = cast(Tensor, self.penalty), self._clouds[self._replayed]
        _check_same_points(points, cloud, self._replayed)
        share: Tensor = _Share.apply(points, penalty / len(self), self._gradients[self._replayed])  # type: ignore[no-untyped-call]
        self._shared = True
        return share

    def _differentiate(self) -> None:
        union = _union(self._clouds)
        points = union.points.detach().requires_grad_()
        with torch.enable_grad():
            penalty = self.loss(points, mask=union.mask, labels=union.labels)
            (gradient,) = torch.autograd.grad(penalty, points)
        self.penalty = penalty.detach()
        self._gradients = gradient.split([cloud.points.shape[-2] for cloud in self._clouds], dim=-2)


class _Share(torch.autograd.Function):
    """A value whose derivative with respect to the points is given."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = points.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad * gradient).to(ctx.dtype), None, None


def cached_backward(
    forward: Callable[[Any], tuple[Tensor | None, Any]],
    batches: Iterable[Any],
    loss: Callable[..., Tensor],
    *,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> tuple[Tensor | None, Tensor]:
    """Run `GradientCache` over the micro-batches of one step: backward of ``sum of task losses + loss(all points)``.

    Args:
        forward: called twice with each batch; returns its task loss, a scalar or None, already divided by the number of micro-batches
            if a mean is wanted, and its points: a tensor, or a `Cloud` or tuple ``(points, mask, labels)``.
        batches: the micro-batches; they are kept until the end.
        loss: ``loss(points, mask=mask, labels=labels)``, a scalar, its weight included.
        backward: what is done with each micro-batch's loss, ``accelerator.backward`` or the like.

    Returns:
        The sum of the task losses (None without any) and the penalty, both detached.

    Raises:
        ValueError: if there is no batch, and whatever `GradientCache.add` and `GradientCache.share` raise.

    Source:
        Gao et al. 2021.

    Example:
        >>> import torch
        >>> from simplicial_reg import entropy_deficit, rips_barcode
        >>> def forward(batch):
        ...     points = batch * scale
        ...     return points.square().sum(), points
        >>> def deficit(points, *, mask=None, labels=None):
        ...     return entropy_deficit(rips_barcode(points, mask=mask)[0])
        >>> scale = torch.ones(1, requires_grad=True)
        >>> task_loss, penalty = cached_backward(forward, torch.tensor([[[0.0], [1.0]], [[3.0], [4.0]]]), deficit)
        >>> task_loss, round(penalty.item(), 4), scale.grad  # the deficit does not depend on scale
        (tensor(26.), 0.0589, tensor([52.]))
    """
    cache, batches = GradientCache(loss), list(batches)
    if not batches:
        raise ValueError("batches must hold at least one micro-batch; got none")
    for batch in batches:
        with cache.collecting():
            cache.add(*_as_tuple(forward(batch)[1]))
    total: Tensor | None = None
    for batch in batches:
        with cache.replaying():
            task_loss, points = forward(batch)
            share = cache.share(_as_tuple(points)[0])
            backward(share if task_loss is None else task_loss + share)
        if task_loss is not None:
            total = task_loss.detach() if total is None else total + task_loss.detach()
    return total, cast(Tensor, cache.penalty)


def subsample(
    points: Tensor,
    size: int,
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    strategy: str = "random",
    generator: torch.Generator | None = None,
) -> Cloud:
    """At most `size` real points of each cloud, in their order: drawn uniformly without replacement, or covering it.

    With ``strategy="farthest"`` the first point is drawn, and each further one is the farthest from those before, in Euclidean
    distance; the first of several equally far ones. If r is the largest distance of a point from the sample, the barcode of the
    sample is within 2 r of that of the cloud (bottleneck distance, every homology dimension), and r is at most twice that of
    the best sample of the size. It costs O(n size d) in `size` steps, one after the other.

    Gradients flow into the chosen points. The host does not wait for an accelerator, unless the generator is on another device.

    Args:
        points: floating tensor ``(n, d)`` or ``(B, n, d)``, or a list of ``(n_i, d)``; each cloud draws for itself.
        size: the most points that are kept, at least 1.
        mask: bool ``(n,)`` or ``(B, n)``, True where the point is real.
        labels: integer ``(n,)`` or ``(B, n)``, chosen along.
        strategy: ``"random"`` or ``"farthest"``.
        generator: the source of randomness; None is torch's global one on the device of points.

    Returns:
        Points ``(..., min(size, n), d)``, mask and labels of them; the mask is None where none was given, and otherwise False for
        padding, where a cloud has fewer real points. What is not larger than size is returned as it is.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for wrong shapes, an unknown strategy, or a size less than 1.

    Source:
        Gonzalez 1985 (farthest points); Chazal, de Silva, Oudot 2014 (the bound).

    Example:
        >>> import torch
        >>> points = torch.arange(6.0).unsqueeze(1)
        >>> real = torch.tensor([True, False, True, False, True, True])
        >>> cloud = subsample(points, 3, mask=real, generator=torch.Generator().manual_seed(1))
        >>> cloud.points.squeeze(1), cloud.mask
        (tensor([2., 4., 5.]), tensor([True, True, True]))
    """
    check_count("size", size, 1)
    check_choice("strategy", strategy, STRATEGIES)
    cloud = as_cloud(points, mask, labels)
    if size >= cloud.points.shape[-2]:
        return cloud
    device = cloud.points.device
    # The smallest of so many 62-bit numbers are a uniform choice: at this length ties do not happen.
    highest = 2**62
    key = torch.randint(
        highest,
        cloud.points.shape[:-1],
        generator=generator,
        device=device if generator is None else generator.device,
    ).to(device)
    if cloud.mask is not None:
        key = torch.where(cloud.mask, key, highest)
    if strategy == "farthest":
        chosen = _farthest(cloud.points.detach(), cloud.mask, key.argmin(-1), size).sort().values
    else:
        chosen = key.topk(size, largest=False, sorted=False).indices.sort().values
    return Cloud(
        _rows(cloud.points, chosen),
        None if cloud.mask is None else cloud.mask.gather(-1, chosen),
        None if cloud.labels is None else cloud.labels.gather(-1, chosen),
    )


def _farthest(points: Tensor, mask: Tensor | None, first: Tensor, size: int) -> Tensor:
    """The numbers (..., size) of points that are each farthest from those before; where no real one is left, of padding."""
    with autocast_off(points):
        points = points.double() if points.dtype == torch.float64 else points.float()
        if mask is not None:
            points = torch.where(mask.unsqueeze(-1), points, 0)
        nearest = torch.full_like(points[..., 0], math.inf)  # squared distance to the chosen points
        rank = torch.zeros_like(nearest) if mask is None else torch.where(mask, 0.0, -1.0)  # the last resort
        chosen = [first]
        for _ in range(size - 1):
            centre = points.gather(-2, chosen[-1][..., None, None].expand(*chosen[-1].shape, 1, points.shape[-1]))
            nearest = torch.minimum(nearest, (points - centre).square().sum(-1))
            # A point that is chosen is at 0, as its copies are, and must not be chosen again.
            rank = rank.scatter(-1, chosen[-1].unsqueeze(-1), -2.0)
            chosen.append(torch.where(rank < 0, rank, nearest).argmax(-1))
        return torch.stack(chosen, -1)


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _rows(points: Tensor, index: Tensor) -> Tensor:
    """The points (..., k, d) at index (..., k)."""
    return points.gather(-2, index.unsqueeze(-1).expand(*index.shape, points.shape[-1]))


def _mask_of(cloud: Cloud) -> Tensor:
    if cloud.mask is not None:
        return cloud.mask
    return torch.ones(cloud.points.shape[:-1], dtype=torch.bool, device=cloud.points.device)


def _as_tuple(points: Any) -> tuple[Any, ...]:
    return points if isinstance(points, tuple) else (points,)


def _without_n(points: Tensor) -> tuple[Any, ...]:
    return (*points.shape[:-2], points.shape[-1], points.dtype, points.device)


def _union(clouds: Sequence[Cloud]) -> Cloud:
    masked = any(cloud.mask is not None for cloud in clouds)
    return Cloud(
        torch.cat([cloud.points for cloud in clouds], -2),
        torch.cat([_mask_of(cloud) for cloud in clouds], -1) if masked else None,
        None if clouds[0].labels is None else torch.cat([cast(Tensor, cloud.labels) for cloud in clouds], -1),
    )


def _check_same_points(points: Any, cloud: Cloud, number: int) -> None:
    if not isinstance(points, Tensor) or points.shape != cloud.points.shape:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(
            f"points of micro-batch {number} must have shape {tuple(cloud.points.shape)}, as in the first pass; got {got}"
        )
    if runs_kernels(points):
        first, real = cloud.points, _mask_of(cloud)
        second = torch.where(real.unsqueeze(-1), points.detach().to(first.dtype), 0)
        # Far above rounding, far below what another batch or another dropout would change.
        if torch.linalg.vector_norm(second - first) > 0.01 * torch.linalg.vector_norm(first):
            raise ValueError(
                f"points of micro-batch {number} must be those of the first pass; they differ by more than a hundredth of their "
                "norm; replay the micro-batches in the same order, with the same parameters and in the same mode, and "
                "take all randomness from the global generators of torch, NumPy and Python"
            )
