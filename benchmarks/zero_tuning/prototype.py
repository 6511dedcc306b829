"""Candidates for a measured rate under averaged weights, many at once. A tool of research, not the library's code.

The gradient is taken at y = (1-β) z + β x; the base steps z by the rate r; x averages z. On some steps the loss of the same
batch is asked for once more where y's direct share of the step ended, y - (1-β) r d: with the gradient's slope a parabola.
Pooled, its minimum s* is where the next rates go: r = α s* / (1-β).
"""

from __future__ import annotations

import math
from typing import Any

import many
import torch
from many import Ask, Group, Setting, column
from torch import Tensor

DEFAULTS: dict[str, float] = {
    "alpha": 1.0,
    "beta": 0.9,
    "b1": 0.0,  # the base's own momentum
    "b2": -1.0,  # Adam's; negative: the task's; 0: the base is SGD
    "fresh": 0.0,  # share (geometric) of the fresh batch's minimum
    "cap": 0.0,  # at most so many fresh minima
    "growth": 2.0,
    "fall": 2.0,
    "rise": 0.0,  # instead of growth: between measurements at most as ((k + 1) / (k0 + 1)) ** rise
    "plateau": 0.0,  # the rise where the last quarter of the run gained less than ...
    "flat": 0.02,  # ... this share of all that was gained before
    "back": 0.0,  # whether z goes back to x where the loss left its range
    "hyper": 0.0,  # judge: how far a window's verdict moves the multiplier of alpha, in octaves
    "span": 1.25,  # windows end where the step has grown by this factor
    "least": 0.25,
    "most": 2.0,
    "along": 0.0,  # the window's move of z; 1: of x
    "bias": 0.0,  # verdict that leaves the multiplier alone
    "gamma": 0.8,  # how much older measurements count
    "start": 1e-3,  # first step of y, as a share of the weights' norm
    "poly": 0.0,  # weights of the average grow with this power of the step
    "power": 2.0,  # and with this power of the rate
    "guard": 4.0,  # a step is taken back where the loss rose by more than this many of its expected falls
    "every": 16.0,  # steps between measurements, later
    "alarm": 8.0,  # mean deviations above the mean loss that are out of range
    "lead": 1.0,  # the rate at first: this share of the measured one ...
    "ramp": 0.0,  # ... rising to all of it over so many steps
    "decay": 1.0,  # multiple of the weight decay
    "push": 1.0,  # plateau: growth of alpha per window without progress
    "push_most": 16.0,
    "quiet": 0.1,  # noise below which the plateau rule holds
}


def due(step: int, every: float) -> bool:
    """Whether to measure."""
    return step < 16 or (step < 64 and step % 4 == 0) or step % int(every) == 0


class Measured(Group):
    """See the module."""

    def __init__(self, start: Tensor, configs: list[dict[str, Any]], setting: Setting) -> None:
        super().__init__(start, configs, setting)
        for name, default in DEFAULTS.items():
            setattr(self, name, column(configs, name, default, start))
        self.b2 = torch.where(self.b2 < 0, setting.betas[1], self.b2)
        self.every_ = int(DEFAULTS["every"])
        self.z, self.x = self.weights.clone(), self.weights.clone()
        self.m, self.v = torch.zeros_like(self.z), torch.zeros_like(self.z)
        zero = torch.zeros(len(configs), 1, device=start.device)
        self.r, self.sum = zero.clone(), zero.clone()
        self.A, self.C, self.loud = zero.clone(), zero.clone(), zero.clone()
        self.Af, self.Cf = zero.clone(), zero.clone()
        self.mean, self.dev = zero.clone(), zero.clone()
        self.boost = zero + 1.0
        self.refused = zero.clone()
        self.before: tuple[Tensor, Tensor] | None = None
        self.trace: list[Tensor] = []
        self.forced = zero.bool()
        self.seen, self.last = 0, 0
        self.anchor, self.anchor_x = self.z, self.x
        self.first_v, self.second_v, self.loss_v = zero.clone(), zero.clone(), zero.clone()
        self.count = zero.clone()
        self.ends = column(configs, "span", DEFAULTS["span"], start) * 0 + 32
        self.diary: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.best = zero + math.inf

    def _direction(self, grads: Tensor) -> Tensor:
        n = self.t + 1
        self.m = self.m + (1 - self.b1) * (grads - self.m)
        m = self.m / (1 - self.b1**n)
        self.v = self.b2 * self.v + (1 - self.b2) * grads.square()
        size = (self.v / (1 - self.b2**n)).sqrt() + 1e-8
        adam = self.b2 > 0
        move = torch.where(adam, m / size, m)
        return move + self.decay * self.setting.decay * self.weights * adam

    def _pool(self, A: Tensor, C: Tensor, a: Tensor, c: Tensor, ok: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(ok, self.gamma * A + a, A), torch.where(ok, self.gamma * C + c, C)

    def step(self, losses: Tensor, grads: Tensor, ask: Ask) -> None:
        y, loss = self.weights, losses[:, None]
        ok = loss.isfinite() & grads.isfinite().all(1, keepdim=True)
        grads = torch.where(ok, grads, 0.0)
        if self.before is not None:  # the last step on a fresh batch
            s, old = self.before
            move = y - old
            first = ask(old)[:, None]
            slope1 = (grads * move).sum(1, keepdim=True) / s
            c = 2 * (first - loss + slope1 * s) / s**2
            good = ok & first.isfinite()
            self.Af, self.Cf = self._pool(self.Af, self.Cf, slope1 - c * s, c, good)
            self.before = None
        d = self._direction(grads)
        if self.t == 0:
            length = (1 - self.beta) * d.norm(dim=1, keepdim=True)
            self.r = self.start * y.norm(dim=1, keepdim=True) / length.clamp(min=1e-30)
        self.losses.append(loss)
        self._judge(loss, grads)
        # a loss out of its range
        out = (loss > self.mean + self.alarm * self.dev) & (self.seen >= 8) | ~ok
        self.r = torch.where(out, self.r * 0.5, self.r)
        share = max(1.0 / (self.seen + 1), 0.05)
        self.mean = torch.where(out, loss, self.mean + share * (loss - self.mean))
        self.mean = torch.where(self.mean.isfinite(), self.mean, 1e30)
        deviation = (loss - self.mean).abs()
        self.dev = torch.where(out, self.dev * 2, self.dev + share * (deviation - self.dev))
        self.seen += 1
        r = self.r * (self.lead + (1 - self.lead) * (self.t / self.ramp.clamp(min=1e-9)).clamp(max=1.0))
        taken = torch.ones_like(r)
        if due(self.t, self.every_) or bool(out.any()):
            a = -(grads * d).sum(1, keepdim=True)
            s = (1 - self.beta) * r
            after = ask(y - s * d)[:, None]
            fits = after.isfinite() & ok
            c = 2 * (after - loss - a * s) / s**2
            loud = torch.where(self.loud == 0, a.abs(), self.loud)
            tame = (3 * loud / a.abs().clamp(min=1e-38)).clamp(max=1.0)
            self.loud = torch.where(fits, loud + 0.2 * (tame * a.abs() - loud), self.loud)
            self.A, self.C = self._pool(self.A, self.C, tame * a, tame * c, fits)
            want = torch.where(self.A < 0, 8.0 * self.r, self.r / self.fall)
            whole = (self.A < 0) & (self.C > 0)
            least = -self.A / self.C.clamp(min=1e-38)
            greedy = (self.Af < 0) & (self.Cf > 0)
            # where the fresh batches see no minimum ahead, the own one's tenth stands for it
            fresh = torch.where(greedy, -self.Af / self.Cf.clamp(min=1e-38), 0.1 * least)
            least = torch.where(self.fresh > 0, least ** (1 - self.fresh) * fresh**self.fresh, least)
            least = torch.where(self.cap > 0, torch.minimum(least, self.cap * fresh), least)
            want = torch.where(whole, self.alpha * self.boost * least / (1 - self.beta), want)
            ratio = (self.t + 2) / (self.last + 1)
            rise = torch.where(self._stands_still(), self.plateau.maximum(self.rise), self.rise)
            growth = torch.where(self.rise > 0, torch.clamp(ratio**rise, max=2.0), self.growth)
            self.last = self.t + 1
            want = torch.minimum(torch.maximum(want, self.r / self.fall), self.r * growth)
            refuse = ~after.isfinite() | (after - loss > self.guard * (a * s).abs())
            want = torch.where(refuse, torch.minimum(want, 0.5 * self.r), want)
            taken = (~refuse).float()
            self.refused += 1 - taken
            self.r = torch.where(ok, want, self.r)
            if bool(((self.fresh > 0) | (self.cap > 0)).any()):
                self.before = (s, y)
            self.trace.append(r[:, 0].clone())
        taken = taken * ok
        moved = self.z - taken * r * d
        home = out & (self.back > 0)
        self.z = torch.where(home, self.x, moved)
        self.refused += 100 * home
        weight = r**self.power * (self.t + 1) ** self.poly
        self.sum = self.sum + weight
        self.x = self.x + weight / self.sum * (self.z - self.x)
        self.weights = self.z + self.beta * (self.x - self.z)
        self.t += 1

    def _judge(self, losses: Tensor, grads: Tensor) -> None:
        """Do fresh gradients still point down along what a window of steps has moved?"""
        lines = (self.z - self.anchor, self.x - self.anchor_x, self.z - self.x)
        v = torch.stack([(grads * line).sum(1, keepdim=True) for line in lines])
        self.first_v, self.second_v = self.first_v + v, self.second_v + v**2
        self.loss_v = self.loss_v + losses
        self.count += 1
        over = self.t >= self.ends
        if not bool(over.any()):
            return
        mean = self.first_v / self.count
        verdicts = mean / (self.second_v / self.count).sqrt().clamp(min=1e-30)
        length = self.weights.norm(dim=1, keepdim=True)
        self.diary.append(
            torch.cat([*verdicts, mean[2], self.loss_v / self.count, length, self.r], 1)
        )
        counts = over & (self.t > 32)
        verdict = torch.where(self.along > 0, verdicts[1], verdicts[0])
        boost = self.boost * torch.exp2(-self.hyper * (verdict - self.bias))
        boost = torch.minimum(torch.maximum(boost, self.least), self.most)
        self.boost = torch.where(counts, boost, self.boost)
        self.anchor = torch.where(over, self.z, self.anchor)
        self.anchor_x = torch.where(over, self.x, self.anchor_x)
        self.first_v, self.second_v = (
            torch.where(over, 0.0, value) for value in (self.first_v, self.second_v)
        )
        self.loss_v, self.count = (
            torch.where(over, 0.0, value) for value in (self.loss_v, self.count)
        )
        self.ends = torch.where(over, self.ends * self.span, self.ends)

    def _stands_still(self) -> Tensor:
        """Whether the last quarter of the run so far gained next to nothing."""
        quarter = len(self.losses) // 4
        if quarter < 8:
            return torch.zeros_like(self.r).bool()
        losses = torch.stack(self.losses)
        late, before = losses[-quarter:].mean(0), losses[-2 * quarter : -quarter].mean(0)
        return before - late < self.flat * (losses[:4].mean(0) - before)

    def judged(self) -> Tensor:
        return self.x

    def told(self) -> list[dict[str, Any]]:
        trace = torch.stack(self.trace, 1).cpu()
        places = torch.linspace(0, trace.shape[1] - 1, 12).long()
        return [
            {
                "rates": [float(f"{v:.3g}") for v in row[places].tolist()],
                "refused": int(n),
                "boost": round(boost, 3),
                "diary": [[float(f"{x:.3g}") for x in v[at].tolist()] for v in self.diary],
            }
            for at, (row, n, boost) in enumerate(
                zip(trace, self.refused[:, 0].tolist(), self.boost[:, 0].tolist(), strict=True)
            )
        ]


many.KINDS["measured"] = Measured


def around(base: dict[str, Any], **changes: list[Any]) -> dict[str, dict[str, Any]]:
    """One thing changed at a time."""
    made: dict[str, dict[str, Any]] = {"base": {"kind": "measured", **base}}
    for name, values in changes.items():
        for value in values:
            made[f"{name}={value}"] = {"kind": "measured", **base, name: value}
    return made


def around_more(base: dict[str, Any], more: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Several things changed."""
    return {name: {"kind": "measured", **base, **config} for name, config in more.items()}


SLOW = {"power": 0.0, "growth": 1.2}
RISE = {"power": 0.0, "rise": 1.0, "beta": 0.8}
SAFE = {**RISE, "plateau": 3.0, "poly": 1.0, "back": 1.0}
NEXT = {**RISE, "plateau": 2.0, "poly": 3.0, "back": 1.0}
BASE = {**NEXT, "poly": 2.0}
FINAL = {**BASE, "start": 3e-4, "rise": 1.25, "poly": 3.0}
PLANS = {
    "final": around_more(FINAL, {"alpha=.7": {"alpha": 0.7}, "fresh=.25": {"fresh": 0.25}}),
    "second": around_more(BASE, {
        **{
            f"alpha={a} poly={p:g} beta={b}": {"alpha": a, "poly": p, "beta": b}
            for a, p, b in (
                (1.0, 2.0, 0.8), (0.7, 1.0, 0.8), (0.7, 2.0, 0.8), (0.7, 3.0, 0.8), (0.5, 2.0, 0.8), (0.5, 3.0, 0.8),
                (0.7, 2.0, 0.9), (0.5, 1.0, 0.9), (0.5, 2.0, 0.9), (0.35, 2.0, 0.9), (0.5, 2.0, 0.95), (1.4, 2.0, 0.8),
            )
        },
        "start=3e-4 rise=1.25": {"start": 3e-4, "rise": 1.25},
        "start=3e-4 rise=1.25 alpha=.7": {"start": 3e-4, "rise": 1.25, "alpha": 0.7},
        "start=3e-4 rise=1.25 beta=.9 alpha=.5": {"start": 3e-4, "rise": 1.25, "beta": 0.9, "alpha": 0.5},
        "fresh=.25": {"fresh": 0.25},
        "fresh=.25 alpha=1.4": {"fresh": 0.25, "alpha": 1.4},
        "fresh=.25 beta=.9": {"fresh": 0.25, "beta": 0.9},
        "hyper=.5 bias=.3": {"hyper": 0.5, "bias": 0.3},
        "hyper=.5 bias=.5": {"hyper": 0.5, "bias": 0.5},
        "hyper=1 bias=.5": {"hyper": 1.0, "bias": 0.5},
        "hyper=1 bias=.7": {"hyper": 1.0, "bias": 0.7},
        "hyper=1 bias=.5 span=1.5": {"hyper": 1.0, "bias": 0.5, "span": 1.5},
        "hyper=1 along": {"hyper": 1.0, "along": 1.0},
        "hyper=1 along span=1.5": {"hyper": 1.0, "along": 1.0, "span": 1.5},
        "hyper=1 along bias=.3": {"hyper": 1.0, "along": 1.0, "bias": 0.3},
        "hyper=.5 along bias=-.2": {"hyper": 0.5, "along": 1.0, "bias": -0.2},
    }),
    "next": around(NEXT, poly=[1.0, 2.0, 6.0], start=[2e-3], beta=[0.85, 0.9], alpha=[0.7, 1.2], gamma=[0.5, 0.9], fresh=[0.3], power=[1.0], fall=[1.2, 4.0], decay=[0.0], flat=[0.05])
    | around_more(NEXT, {
        "start=2e-3 beta=.7": {"start": 2e-3, "beta": 0.7},
        "poly=2 beta=.9": {"poly": 2.0, "beta": 0.9},
        "alpha=.7 beta=.85": {"alpha": 0.7, "beta": 0.85},
        "rise=.9": {"rise": 0.9},
        "rise=1.1": {"rise": 1.1},
    }),
    "safe": around(SAFE, start=[3e-3, 0.01], beta=[0.7, 0.9], rise=[1.25, 1.5], poly=[0.0, 2.0], alarm=[4.0, 16.0], growth=[2.0])
    | around_more(SAFE, {
        "start=3e-3 beta=.9": {"start": 3e-3, "beta": 0.9},
        "rise=1.5 beta=.9": {"rise": 1.5, "beta": 0.9},
        "rise=2 start=1e-4": {"rise": 2.0, "start": 1e-4},
        "rise=2 start=3e-4": {"rise": 2.0, "start": 3e-4},
    }),
    "flat": around(RISE, plateau=[2.0, 3.0, 4.0], start=[3e-3, 0.01])
    | around_more(RISE, {
        "plateau=3 flat=.05": {"plateau": 3.0, "flat": 0.05},
        "plateau=3 flat=.1": {"plateau": 3.0, "flat": 0.1},
        "plateau=3 start=3e-3": {"plateau": 3.0, "start": 3e-3},
        "plateau=3 start=3e-3 beta=.9": {"plateau": 3.0, "start": 3e-3, "beta": 0.9},
        "plateau=3 poly=1": {"plateau": 3.0, "poly": 1.0},
    }),
    "wide": around(
        SAFE,
        alpha=[0.5, 0.7, 1.4],
        beta=[0.5, 0.7, 0.9],
        poly=[0.0, 2.0, 3.0, 6.0],
        rise=[0.75, 1.5],
        start=[3e-4, 3e-3, 1e-2],
        fresh=[0.5, 1.0],
        gamma=[0.5, 0.9],
        power=[1.0],
        plateau=[0.0],
        b2=[0.0],
    )
    | around_more(SAFE, {
        "poly=3 beta=.9": {"poly": 3.0, "beta": 0.9},
        "poly=3 alpha=1.4": {"poly": 3.0, "alpha": 1.4},
        "poly=3 fresh=.5": {"poly": 3.0, "fresh": 0.5},
        "rise=2 start=1e-4": {"rise": 2.0, "start": 1e-4},
        "b1=.9 beta=.5 alpha=.3": {"b1": 0.9, "beta": 0.5, "alpha": 0.3},
        "b1=.9 alpha=.3": {"b1": 0.9, "alpha": 0.3},
        "sgd b1=.9 alpha=.3": {"b2": 0.0, "b1": 0.9, "alpha": 0.3},
    }),
    "rules3": around(
        SLOW,
        rise=[0.75, 1.0, 1.25, 1.5],
        beta=[0.5, 0.7, 0.8],
        fall=[1.2, 1.5],
        power=[0.5, 1.0],
        poly=[0.5, 1.0],
        fresh=[1.0],
        gamma=[0.9],
    )
    | around_more(SLOW, {
        "rise=1 beta=.8": {"rise": 1.0, "beta": 0.8},
        "rise=1 start=3e-3": {"rise": 1.0, "start": 3e-3},
        "rise=1 start=3e-4": {"rise": 1.0, "start": 3e-4},
        "rise=1 beta=.7": {"rise": 1.0, "beta": 0.7},
        "rise=1 power=1": {"rise": 1.0, "power": 1.0},
        "rise=1 poly=1": {"rise": 1.0, "poly": 1.0},
        "b1=.9 beta=0": {"b1": 0.9, "beta": 0.0},
        "b1=.9 beta=.5": {"b1": 0.9, "beta": 0.5},
        "b1=.9 beta=.5 alpha=.3": {"b1": 0.9, "beta": 0.5, "alpha": 0.3},
        "b1=.9 alpha=.2": {"b1": 0.9, "alpha": 0.2},
        "sgd": {"b2": 0.0},
        "sgd b1=.9 alpha=.2": {"b2": 0.0, "b1": 0.9, "alpha": 0.2},
    }),
    "try": around(SLOW, growth=[1.05, 1.1], beta=[0.7], fresh=[1.0], alpha=[0.5]),
    "rules": around(
        {},
        alpha=[0.25, 0.5, 2.0, 4.0],
        beta=[0.0, 0.5, 0.8, 0.95, 0.98],
        b1=[0.9],
        fresh=[0.5, 1.0],
        growth=[1.3, 8.0],
        gamma=[0.5, 0.95],
        start=[1e-5, 1e-2],
        poly=[1.0, 3.0, 8.0],
        power=[0.0, 1.0],
    ),
    "rules2": around(
        {"power": 0.0},
        growth=[1.1, 1.2, 1.3, 1.5],
        alpha=[0.5, 0.7, 1.4],
        beta=[0.5, 0.7, 0.8, 0.95],
        fresh=[0.25, 0.5, 1.0],
        gamma=[0.5, 0.9, 0.95],
        start=[1e-4, 1e-2],
        poly=[0.5, 1.0, 2.0],
        power=[0.5],
    )
    | {
        f"growth=1.3 {name}={value}": {"kind": "measured", "power": 0.0, "growth": 1.3, name: value}
        for name, values in {
            "alpha": [0.5, 1.4], "poly": [0.5, 1.0, 2.0], "fresh": [0.5], "beta": [0.8],
        }.items()
        for value in values
    },
}


def plan(name: str) -> dict[str, dict[str, Any]]:
    """Candidates by name."""
    return PLANS[name]
