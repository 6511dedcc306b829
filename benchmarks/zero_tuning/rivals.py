"""Other people's zero-tuning methods on the suite, each as its authors say: docs/rivals.md.

`RIVALS` maps a name to what makes a method of `suite.run` from a task and a network. Three are written here from their
papers, because no package of today's index has them: CDAT, ScheduleFree+ and AMUSE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import many
import torch
from suite import Norm, Task
from torch import Tensor, nn

Loss = Callable[[], Tensor]
Clip = Callable[[], None]


class Ordinary:
    """Loss, backward, step; `eval` and `train` of the optimizer around evaluations, where it has them.

    Args:
        optimizer: what steps.
        schedule: called after every step with the loss.
        step: makes the step from the loss, where the optimizer needs it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[float], None] = lambda loss: None,
        step: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self._make_step = step or (lambda loss: optimizer.step())
        getattr(optimizer, "train", lambda: None)()

    def step(self, loss: Loss, clip: Clip) -> None:
        """One step of training."""
        self.optimizer.zero_grad()
        value = loss()
        value.backward()
        clip()
        self._make_step(value.detach())
        self.schedule(float(value.detach()))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model has the weights to be judged."""
        getattr(self.optimizer, "eval", lambda: None)()
        yield
        getattr(self.optimizer, "train", lambda: None)()


def _sum(pairs: Iterator[tuple[Tensor, Tensor]]) -> float:
    return float(torch.stack([(a * b).sum() for a, b in pairs]).sum())


class CDAT:
    """Adam whose rate stays at the edge of stability (Roulet et al. 2024, 2407.06183).

    .. math:: \\eta_t = \\sigma n_t / d_t, \\quad n_t = \\max(-\\nabla f \\cdot u, 0), \\quad d_t = |u^T H u| + \\epsilon

    with exponential averages of both; u is Adam's update per unit of the rate. σ = 2 is the edge, 1 the greedy
    minimum.

    Args:
        params: what is trained.
        sigma: σ.
        ema: share of the past in the averages of n and d.
        betas: Adam's.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        sigma: float = 2.0,
        ema: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.params, self.sigma, self.ema, self.betas = params, sigma, ema, betas
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]
        self.t, self.n, self.d, self.rate = 0, 0.0, 0.0, 0.0

    def step(self, loss: Loss, clip: Clip) -> None:
        """One step; the curvature costs a second backward pass. Nothing is clipped."""
        grads = torch.autograd.grad(loss(), self.params, create_graph=True)
        self.t += 1
        b1, b2 = self.betas
        update = []
        for g, m, v in zip(grads, self.m, self.v, strict=True):
            m.lerp_(g.detach(), 1 - b1)
            v.mul_(b2).addcmul_(g.detach(), g.detach(), value=1 - b2)
            size = (v / (1 - b2**self.t)).sqrt().add_(1e-8)
            update.append(-m / (1 - b1**self.t) / size)
        along = torch.stack([(g * u).sum() for g, u in zip(grads, update, strict=True)]).sum()
        bent = torch.autograd.grad(along, self.params, allow_unused=True)
        held = ((h, u) for h, u in zip(bent, update, strict=True) if h is not None)
        n = max(-float(along.detach()), 0.0)
        d = abs(_sum(held)) + 1e-12
        self.n = self.ema * self.n + (1 - self.ema) * n
        self.d = self.ema * self.d + (1 - self.ema) * d
        self.rate = self.sigma * self.n / self.d
        with torch.no_grad():
            for p, u in zip(self.params, update, strict=True):
                p.add_(u, alpha=self.rate)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The weights are those that are trained."""
        yield


class Averaged(torch.optim.Optimizer):
    """Three sequences: z steps, x averages, y = (1 - β) z + β x is where gradients are taken.

    Parameters hold y, and x between `eval` and `train`.
    """

    @torch.no_grad()
    def eval(self) -> None:
        """Parameters become x."""
        self._put("x")

    @torch.no_grad()
    def train(self) -> None:
        """Parameters become y."""
        self._put("y")

    def _put(self, name: str) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if self.state[p]:
                    p.copy_(self.state[p][name])

    def _begin(self, p: nn.Parameter) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            for name in ("x", "y", "z"):
                state[name] = p.detach().clone()
            for name in ("m", "v"):
                state[name] = torch.zeros_like(p)
        return state

    def _end(self, p: nn.Parameter, share: float, beta: float) -> None:
        """x and y after z has moved."""
        state = self.state[p]
        state["x"].lerp_(state["z"], share)
        state["y"] = torch.lerp(state["z"], state["x"], beta)
        p.copy_(state["y"])


class ScheduleFreePlus(Averaged):
    """ScheduleFree+ (Defazio 2026, 2605.19095): Adam under averaging, its rate by Polyak's rule.

    .. math:: \\gamma_t = lr \\, \\frac{\\max(0, f(y_t) + \\beta \\langle g, z_t - x_t \\rangle)}{\\sqrt{\\pi/2} \\, \\|g\\|_1}

    z moves by γ times Adam's direction, and by γ² λ y for the decay of the weights; x weighs z by (t + 1)^r times the
    square of the largest γ so far.

    Args:
        params: what is trained.
        lr: a factor of γ; 1 as published.
        betas: Adam's.
        beta: of the averaging.
        weight_decay: λ.
        r: power of the step in the weights of the average.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        beta: float = 0.9,
        weight_decay: float = 0.0,
        r: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "beta": beta, "decay": weight_decay})
        self.r, self.t, self.largest, self.weights = r, 0, 0.0, 0.0

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:  # type: ignore[override]
        """One step, given the loss at the parameters."""
        self.t += 1
        (group,) = self.param_groups
        trained = [p for p in group["params"] if p.grad is not None]
        states = [self._begin(p) for p in trained]
        apart = _sum(((p.grad, s["z"] - s["x"]) for p, s in zip(trained, states, strict=True)))
        size = sum(float(p.grad.abs().sum()) for p in trained) * math.sqrt(math.pi / 2)
        polyak = max(0.0, float(loss) + group["beta"] * apart) / size if size else 0.0
        rate = group["effective_lr"] = group["lr"] * polyak
        self.largest = max(self.largest, rate, 1e-8)
        weight = self.t**self.r * self.largest**2
        self.weights += weight
        b1, b2 = group["betas"]
        for p, state in zip(trained, states, strict=True):
            state["m"].lerp_(p.grad, 1 - b1)
            state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            state["z"].sub_(state["y"], alpha=rate**2 * group["decay"])
            size_of = (state["v"] / (1 - b2**self.t)).sqrt().add_(1e-8)
            state["z"].addcdiv_(state["m"] / (1 - b1**self.t), size_of, value=-rate)
            self._end(p, weight / self.weights, group["beta"])


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ: five Newton-Schulz steps with Jordan's coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


class AMUSE(Averaged):
    """Anytime Muon with stable gradient evaluation (Kim et al. 2026, 2605.22432).

    Hidden matrices move by the orthogonalized momentum M = μ M + g, everything else by g over Adam's root mean square;
    both under averaging whose β goes to 1 after the warm-up of T₀ steps:

    .. math:: \\beta_t = 1 - \\left(\\frac{T_0 - 1}{t - 1}\\right)^{\\rho} (1 - \\beta_1), \\quad t > T_0

    Args:
        hidden: matrices that Muon moves.
        others: the rest.
        warmup: T₀; the rates rise linearly over it, the average weighs by their squares.
        lr: Muon's rate; its matrix is multiplied by 0.2 √(larger side).
        other_lr: that of the rest; as for Muon, because the published 3e-4 is meant for language models.
        beta: β₁.
        momentum: μ.
        rho: ρ.
    """

    def __init__(
        self,
        hidden: list[nn.Parameter],
        others: list[nn.Parameter],
        warmup: int,
        lr: float = 0.02,
        other_lr: float = 2e-3,
        beta: float = 0.9,
        momentum: float = 0.95,
        rho: float = 1.0,
    ) -> None:
        groups = [
            {"params": hidden, "lr": lr, "muon": True},
            {"params": others, "lr": other_lr, "muon": False},
        ]
        super().__init__([group for group in groups if group["params"]], {})
        self.warmup, self.beta, self.momentum, self.rho = max(2, warmup), beta, momentum, rho
        self.t, self.weights = 0, 0.0

    def beta_at(self, t: int) -> float:
        """β_t."""
        if t <= self.warmup:
            return self.beta
        return 1 - ((self.warmup - 1) / (t - 1)) ** self.rho * (1 - self.beta)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        self.t += 1
        warm = min(1.0, self.t / self.warmup)
        self.weights += warm**2
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self._begin(p)
                if group["muon"]:
                    state["m"].mul_(self.momentum).add_(p.grad)
                    move = 0.2 * max(p.shape) ** 0.5 * orthogonalized(state["m"])
                else:
                    state["v"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                    move = p.grad / (state["v"] / (1 - 0.999**self.t)).sqrt().add_(1e-10)
                state["z"].sub_(move, alpha=warm * group["lr"])
                self._end(p, warm**2 / self.weights, self.beta_at(self.t))


# The list


def _decaying(optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> Ordinary:
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return Ordinary(optimizer, lambda loss: scheduler.step())


def _adamw(task: Task, model: nn.Module) -> Ordinary:
    return _decaying(_plain(task, model), lambda t: many.factor("linear", t / task.steps))


def _plain(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=task.betas, weight_decay=task.decay)


def _schedule_free(task: Task, model: nn.Module) -> Ordinary:
    from schedulefree import AdamWScheduleFree

    return Ordinary(AdamWScheduleFree(model.parameters()))


def _prodigy(task: Task, model: nn.Module) -> Ordinary:
    from prodigyopt import Prodigy

    return _decaying(
        Prodigy(model.parameters()), lambda t: 0.5 + 0.5 * math.cos(math.pi * t / task.steps)
    )


def _prodigy_plus(task: Task, model: nn.Module) -> Ordinary:
    from prodigyplus import ProdigyPlusScheduleFree

    return Ordinary(ProdigyPlusScheduleFree(model.parameters()))


def _ademamix(task: Task, model: nn.Module) -> Ordinary:
    from pytorch_optimizer import AdEMAMix

    optimizer = AdEMAMix(
        model.parameters(), weight_decay=task.decay, weight_decouple=True, t_alpha_beta3=task.steps
    )
    return _decaying(optimizer, lambda t: many.factor("linear", t / task.steps))


def _cdat(sigma: float) -> Callable[[Task, nn.Module], CDAT]:
    return lambda task, model: CDAT(list(model.parameters()), sigma, betas=task.betas)


def _greedy(task: Task, model: nn.Module) -> Ordinary:
    from transformers.optimization import GreedyLR

    optimizer = _plain(task, model)
    return Ordinary(optimizer, GreedyLR(optimizer, smooth=True, min_lr=1e-5).step)


def _schedule_free_plus(task: Task, model: nn.Module) -> Ordinary:
    optimizer = ScheduleFreePlus(model.parameters())
    return Ordinary(optimizer, step=optimizer.step)


def _amuse(task: Task, model: nn.Module) -> Ordinary:
    from surefoot_lab.rivals.muon import split

    return Ordinary(AMUSE(*split(model), warmup=round(0.05 * task.steps)))


def _muon(task: Task, model: nn.Module) -> Ordinary:
    from surefoot_lab.rivals.muon import Muon

    return _decaying(Muon(model), lambda t: 1 - t / task.steps)


def _distance(name: str) -> Callable[[Task, nn.Module], Ordinary]:
    def make(task: Task, model: nn.Module) -> Ordinary:
        from benchmarks.rivals import distance

        normalized = any(isinstance(part, Norm) for part in model.modules())
        settings = {"reps_rel": 1e-4} if normalized else {}
        return Ordinary(getattr(distance, name)(model.parameters(), **settings))

    return make


def _momo(task: Task, model: nn.Module) -> Ordinary:
    from momo import MomoAdam

    optimizer = MomoAdam(model.parameters())
    return Ordinary(optimizer, step=lambda loss: optimizer.step(loss=loss))


RIVALS: dict[str, Callable[[Task, nn.Module], Any]] = {
    "AdamW 1e-3, linear": _adamw,
    "schedule-free AdamW": _schedule_free,
    "ScheduleFree+": _schedule_free_plus,
    "Prodigy + cosine": _prodigy,
    "Prodigy schedule-free": _prodigy_plus,
    "AdEMAMix, linear": _ademamix,
    "CDAT Adam, σ = 2": _cdat(2.0),
    "CDAT Adam, σ = 1": _cdat(1.0),
    "GreedyLR AdamW": _greedy,
    "AMUSE": _amuse,
    "Muon, linear": _muon,
    "MoMo-Adam": _momo,
    "DoG": _distance("AveragedDoG"),
    "LDoG": _distance("AveragedLDoG"),
}
