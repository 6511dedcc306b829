"""Gradients as a backward pass left them, and whether anybody wrote to them since."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from surefoot import _reduce

ROUGH = (torch.float16, torch.bfloat16)


class FreshGradient:
    """How large each gradient was when ``backward()`` ended, before anybody clipped or unscaled it.

    Args:
        params: the parameters.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self._seen: list[Tensor] = []
        self._norms: Tensor | None = None

    def watch(self, loss: Tensor) -> None:
        """Look when the backward pass that comes through ``loss`` ends, if that is theirs."""
        before = marks(self._params)

        def look() -> None:
            if have_changed(before, self._params):
                self.look()

        loss.register_hook(lambda _: _when_it_ends(look))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look when any backward pass made meanwhile ends."""
        waits = False

        def look() -> None:
            nonlocal waits
            waits = False
            self.look()

        def computed(_: Tensor) -> None:
            nonlocal waits
            if not waits:
                waits = True
                _when_it_ends(look)

        known = [p for p in self._params if not nn.parameter.is_lazy(p)]
        hooks = [p.register_post_accumulate_grad_hook(computed) for p in known]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def look(self) -> None:
        """A backward pass has ended."""
        # sparse ones have no norm in older versions of torch, and are refused at the step
        self._seen = [p for p in self._params if p.grad is not None and not p.grad.is_sparse]
        self._norms = _norms(self._seen)

    def scale_since(self, params: Sequence[Tensor]) -> float | None:
        """What all gradients were multiplied by since then; None where that is no one number."""
        if self._norms is None or [id(p) for p in self._seen] != [id(p) for p in params]:
            return None
        pairs = torch.stack([self._norms, _norms(params)]).tolist()
        largest = max(pairs[0], default=0.0)
        if largest == max(pairs[1], default=0.0) == 0.0:
            return 1.0
        ratios = [now / was for was, now in zip(*pairs, strict=True) if was > 1e-3 * largest]
        low, high = min(ratios, default=0.0), max(ratios, default=0.0)
        tolerance = 2e-2 if any(p.dtype in ROUGH for p in params) else 1e-4
        if not (low > 0.0 and math.isfinite(high) and high - low <= tolerance * high):
            return None
        return 1.0 if low <= 1.0 <= high else 0.5 * (low + high)


def _when_it_ends(look: Callable[[], None]) -> None:
    """From inside a backward pass: call this when it is over."""
    # twice: DistributedDataParallel's own callback, which ends the exchange, comes before
    later = Variable._execution_engine.queue_callback
    later(lambda: later(look))


def _norms(params: Sequence[Tensor]) -> Tensor:
    """The norms of the gradients, of this process's shards; without a device sync."""
    grads = _reduce.local([p.grad for p in params if p.grad is not None])
    if not grads:
        return torch.zeros(0)
    rough = any(g.dtype in ROUGH for g in grads)
    norms = torch._foreach_norm(grads, 2.0, torch.float32 if rough else None)
    return torch.stack([n.to(norms[0].device, torch.float32) for n in norms])


def marks(params: Sequence[Tensor]) -> list[tuple[Tensor | None, int]]:
    """What tells whether gradients were written to since."""
    return [(p.grad, 0 if p.grad is None else version_of(p.grad)) for p in params]


def have_changed(before: Sequence[tuple[Tensor | None, int]], params: Sequence[Tensor]) -> bool:
    """Whether any gradient is another, or was written to, since those :func:`marks` were taken."""
    return any(a is not b or m != n for (a, m), (b, n) in zip(before, marks(params), strict=True))


def version_of(t: Tensor) -> int:
    """How often a tensor was written to; of a DTensor, this process's shard of it."""
    return int(getattr(t, "_local_tensor", t)._version)
