"""Arithmetic over lists of parameters. The only file that writes a parameter.

Every function works on lists of tensors of any mix of shapes, memory formats, dtypes and devices,
never concatenates them, and accumulates norms and products in float32 or better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def _any_low_precision(tensors: Sequence[Tensor]) -> bool:
    return any(t.dtype in _LOW_PRECISION for t in tensors)


def norms_sq(tensors: Sequence[Tensor]) -> list[float]:
    """‖tᵢ‖² of each tensor, with one device sync for all."""
    if not tensors:
        return []
    on_cpu = True
    for t in tensors:
        on_cpu = on_cpu and t.is_cpu
    if not (on_cpu or _any_low_precision(tensors)):
        squares = [norm**2 for norm in _numbers(torch._foreach_norm(list(tensors)))]
    else:
        products = []
        for t in tensors:
            flat = t.view(-1) if t.dim() != 1 and t.is_contiguous() else t
            known = flat.dim() == 1 and flat.dtype is torch.float32  # at every step: no more calls
            products.append(torch.dot(flat, flat) if known else _dot(flat, flat))
        squares = _numbers(products)
    if _out_of_range(squares) and (wider := _wider(tensors)) is not None:
        return norms_sq(wider)
    return squares


def _out_of_range(squares: Sequence[float]) -> bool:
    """Whether squares overflowed float32 or drowned in it: gradients above 1e19 or below 1e-16."""
    return not 1e-32 < sum(squares) < math.inf


def _wider(tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors in float64; None where they are, or where the device has none."""
    if all(t.dtype is torch.float64 for t in tensors) or any(
        t.device.type == "mps" for t in tensors
    ):
        return None
    return [t.double() for t in tensors]


def norm_sq(tensors: Sequence[Tensor], weights: Sequence[float]) -> float:
    """Σ wᵢ² ‖tᵢ‖²: the squared norm of the joint vector with parts wᵢ tᵢ. One device sync."""
    return fsum(w * w * n for w, n in zip(weights, norms_sq(tensors), strict=True))


def dot_and_norm_sq(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], weights: Sequence[float]
) -> tuple[float, float]:
    """Σ wᵢ ⟨gᵢ, tᵢ⟩ and Σ wᵢ² ‖tᵢ‖², with one device sync for both."""
    dots, squares = dots_and_norms_sq(tensors, grads)
    dot = fsum(w * d for w, d in zip(weights, dots, strict=True))
    return dot, fsum(w * w * n for w, n in zip(weights, squares, strict=True))


def dots_and_norms_sq(
    firsts: Sequence[Tensor], seconds: Sequence[Tensor]
) -> tuple[list[float], list[float]]:
    """⟨aᵢ, bᵢ⟩ and ‖aᵢ‖² of each pair, with one device sync for all."""
    if not firsts:
        return [], []
    pairs = (_strips(*pair) for pair in zip(firsts, seconds, strict=True))
    dots, squares = _dots_and_squares(pairs)
    if _out_of_range(squares) or not all(map(math.isfinite, dots)):
        wider = _wider(firsts), _wider(seconds)
        if wider != (None, None):
            return dots_and_norms_sq(wider[0] or firsts, wider[1] or seconds)
    return dots, squares


def slopes_and_norms_sq(
    ends: Sequence[Tensor], starts: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[list[float], list[float]]:
    """⟨gᵢ, endᵢ − startᵢ⟩ and ‖endᵢ − startᵢ‖², with one device sync and no tensor of that size.

    The product is 0 where there is no gradient.
    """

    def moves(*given: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
        for x, y, *g in _strips(*(t.detach() for t in given if t is not None)):
            d = x.float() - y.float() if x.dtype in _LOW_PRECISION else x - y
            yield (d, *(each.to(d.dtype) for each in g))
            del d  # before the next one is made

    return _dots_and_squares(moves(*each) for each in zip(ends, starts, grads, strict=True))


def _dots_and_squares(
    pairs: Iterable[Iterable[tuple[Tensor, ...]]],
) -> tuple[list[float], list[float]]:
    """⟨aᵢ, bᵢ⟩, 0 without a bᵢ, and ‖aᵢ‖² of pairs in strips."""
    products: list[Tensor] = []
    dots: list[float] = []
    squares: list[float] = []
    places: list[tuple[list[float], int]] = []
    for i, strips in enumerate(pairs):
        dots.append(0.0)
        squares.append(0.0)
        for a, *others in strips:  # the second product finds the strip in the cache
            products.append(_dot(a, a))
            places.append((squares, i))
            for b in others:
                products.append(_dot(a, b))
                places.append((dots, i))
                del b
            del a, others
    for (sums, i), value in zip(places, _numbers(products) if products else [], strict=True):
        sums[i] += value
    return dots, squares


_STRIP, _LONG_STRIP = 1 << 18, 1 << 21
"""Elements of two tensors that a core's cache holds together; and of temporary tensors on
accelerators, which take longer for many small ones."""


def _strips(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Tensors of one shape, strip by strip of flat views; as they are where there is none."""
    if all(t.is_contiguous() for t in tensors):
        flat = [t.view(-1) for t in tensors]
    elif all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        flat = [t.permute(0, 2, 3, 1).view(-1) for t in tensors]
    else:
        return [tensors]
    length = _STRIP if tensors[0].device.type == "cpu" else _LONG_STRIP
    return zip(*(t.split(length) for t in flat), strict=True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in _LOW_PRECISION:
        a, b = a.float(), b.float()
    return torch.dot(a, b) if a.dim() == 1 else (a * b).sum()  # layouts that have no flat view


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Their values, with one device sync for all."""
    first, alike, on_cpu = scalars[0], True, True
    for s in scalars:  # at every step: a loop calls nothing
        on_cpu = on_cpu and s.is_cpu
        alike = alike and s.dtype == first.dtype and s.device == first.device
    if on_cpu:
        return [s.item() for s in scalars]
    if not alike:
        # MPS has no float64; the few hundred numbers are summed on the host in double precision
        dtype = torch.float32 if first.device.type == "mps" else torch.float64
        scalars = [s.to(device=first.device, dtype=dtype) for s in scalars]
    values: list[float] = torch.stack(list(scalars)).tolist()
    return values


def fsum(values: object) -> float:
    """Exact sum; NaN instead of an error where infinities cancel or overflow."""
    try:
        return math.fsum(values)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return math.nan


@torch.no_grad()
def assign(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """tᵢ ← vᵢ, in place."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(values))


def exchange(param: Tensor, other: Tensor) -> Tensor:
    """Let the parameter show another tensor's memory; the tensor of its own. Nothing is copied.

    No version counts it, so a graph that was built before lives on.
    """
    own, param.data = param.data, other
    return own


def put_unnoticed(param: Tensor, value: Tensor) -> None:
    """Write a value that no version counter counts: not a move that anybody is to notice."""
    param.data.copy_(value)


@torch.no_grad()
def swap(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> None:
    """Exchange the contents of two lists of tensors, without a third of their size."""
    for a, b in zip(firsts, seconds, strict=True):
        for x, y in _strips(a.detach(), b.detach()):
            kept = x.clone()
            x.copy_(y)
            y.copy_(kept)
            del kept  # before the next one is made


@torch.no_grad()
def lerp(memory: Sequence[Tensor], new: Sequence[Tensor], weight: float) -> None:
    """mᵢ ← mᵢ + weight · (nᵢ − mᵢ), in place."""
    torch._foreach_lerp_(list(memory), list(new), weight)


def follow(firsts: list[Tensor], seconds: list[Tensor], share: float, other: float) -> None:
    """aᵢ ← aᵢ + share · (bᵢ − aᵢ), then bᵢ ← bᵢ + other · (aᵢ − bᵢ), in place.

    Made at every step, by a caller who records no graph already.
    """
    torch._foreach_lerp_(firsts, seconds, share)
    torch._foreach_lerp_(seconds, firsts, other)


@torch.no_grad()
def momentum_update(
    buffers: Sequence[Tensor], grads: Sequence[Tensor], beta: float, share: float = 1.0
) -> None:
    """vᵢ ← β vᵢ + share · gᵢ, in place."""
    torch._foreach_mul_(list(buffers), beta)
    torch._foreach_add_(list(buffers), list(grads), alpha=share)


@torch.no_grad()
def shrink(params: Sequence[Tensor], factor: float) -> None:
    """pᵢ ← factor · pᵢ, in place."""
    torch._foreach_mul_(list(params), factor)


@torch.no_grad()
def add_scaled(
    params: Sequence[Tensor], tensors: Sequence[Tensor], weights: Sequence[float], factor: float
) -> None:
    """pᵢ ← pᵢ + factor · wᵢ · tᵢ, in place."""
    places: dict[float, list[int]] = {}
    for i, weight in enumerate(weights):  # all of one group share it, so the kernels stay few
        places.setdefault(weight, []).append(i)
    for weight, chosen in places.items():
        alpha = factor * weight
        if alpha != 0.0:
            torch._foreach_add_(
                [params[i] for i in chosen], [tensors[i] for i in chosen], alpha=alpha
            )


class Copies:
    """Copies of parameters, to leave them and come back bit for bit.

    Adding a step and subtracting it again drifts; copying does not. The memory is allocated once
    and used for every later :meth:`take` of tensors with the same shapes.
    """

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def take(self, params: Sequence[Tensor]) -> None:
        """Remember the parameters as they are now."""
        layouts = [(p.shape, p.dtype, p.device, p.stride()) for p in params]
        if layouts != [(c.shape, c.dtype, c.device, c.stride()) for c in self._copies]:
            self._copies = [torch.empty_like(p, requires_grad=False) for p in params]
        self._params = list(params)
        if params:
            torch._foreach_copy_(self._copies, self._params)

    def go_on(
        self, tensors: Sequence[Tensor], weights: Sequence[float], at: float, t: float
    ) -> None:
        """From pᵢ = copyᵢ + at · wᵢ · tensorᵢ to the place ``t``.

        In float32 and better by the difference, one pass over memory less than from the copies;
        in half precision, whose rounding would add up, from the copies.
        """
        if _any_low_precision(self._params):
            self.put_moved(tensors, weights, t)
        else:
            add_scaled(self._params, tensors, weights, t - at)

    @torch.no_grad()
    def put_back(self) -> None:
        """Write the remembered values into the parameters."""
        if self._params:
            torch._foreach_copy_(self._params, self._copies)

    @torch.no_grad()
    def put_moved(self, tensors: Sequence[Tensor], weights: Sequence[float], t: float) -> None:
        """pᵢ ← copyᵢ + t · wᵢ · tensorᵢ."""
        if all(p.device.type == "cpu" for p in self._params):
            # one pass over memory instead of two; there is no foreach kernel with out=
            for p, copy, d, w in zip(self._params, self._copies, tensors, weights, strict=True):
                torch.add(copy, d, alpha=t * w, out=p)
            return
        self.put_back()
        add_scaled(self._params, tensors, weights, t)
