"""A copy of an optimizer on a handful of tiny weights, for steps that nobody sees."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from surefoot import _params
from surefoot._quiet import devices_of, undisturbed

__all__ = ["GRADIENTS", "SETTLING", "Toy", "Way", "first_answer"]

T = TypeVar("T")

_SIDE = 4  # of a toy weight, in elements
_TWINS = 2  # toy weights of a kind that get a gradient
GRADIENTS = 12
SETTLING = 3  # steps: some first put the weights on a sphere


class Way(NamedTuple):
    """To make a toy.

    Attributes:
        dtype: of the toy weights. Some kernels know no float64.
        everywhere: every toy weight gets a gradient. Some (DoG) do not look whether there is one.
        with_state: the copy begins with the base's state, cut to the toy weights. Some (Adagrad)
            fill it when they are made and cannot go without.
    """

    dtype: torch.dtype
    everywhere: bool
    with_state: bool


@contextmanager
def _unheard() -> Iterator[None]:
    """Inside, no hook on all optimizers hears of a toy's steps, and no warning leaves them."""
    heard: tuple[dict[int, Any], ...] = (
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    kept = [dict(hooks) for hooks in heard]
    for hooks in heard:
        hooks.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for hooks, were in zip(heard, kept, strict=True):
            hooks.update(were)


def first_answer(question: Callable[[Way], T]) -> T | None:
    """What the first way of making toys says that raises nothing; None where each does."""
    with _unheard():
        for how in itertools.product((torch.float64, torch.float32), (False, True), (False, True)):
            with suppress(Exception):  # in any words that a stranger's code may choose
                return question(Way(*how))
    return None


class Toy:
    """A copy of an optimizer on small weights of its own, for steps that nobody sees.

    Args:
        base: the optimizer, which is only read.
        how: it is made.
    """

    def __init__(self, base: Optimizer, how: Way) -> None:
        family = _family(base)
        noise = torch.Generator().manual_seed(0)
        memo: dict[int, Any] = {}
        toys: dict[Tensor, Tensor] = {}
        for p in (p for member in family for group in member.param_groups for p in group["params"]):
            if p not in toys:
                toys[p] = memo[id(p)] = _toy_weight(p, how.dtype, noise)
        for member in family:
            memo[id(member)] = type(member).__new__(type(member))
            memo.update(_corners(member, toys))
        for member in family:
            if (state := vars(member).get("state")) is not None:
                kept = copy.deepcopy(dict(state), memo) if how.with_state else {}
                memo[id(state)] = defaultdict(dict, kept)
        for member in family:
            _copy_attributes(member, memo)
        for twin in (memo[id(member)] for member in family):
            for settings in (getattr(twin, "defaults", {}), *twin.param_groups):
                if settings.get("differentiable"):
                    settings["differentiable"] = False  # toy weights are leaves
        self.base: Optimizer = memo[id(base)]
        self.params = [toys[p] for p in _samples(base, math.inf if how.everywhere else _TWINS)]
        self.start = [p.detach().clone() for p in self.params]
        slopes = [_random(p.shape, how.dtype, noise) for p in self.params]
        self._gradients = [
            [s + 0.5 * _random(s.shape, how.dtype, noise) for s in slopes] for _ in range(GRADIENTS)
        ]
        rates = [
            group["lr"] if float(group["lr"]) != 0.0 else group.get("initial_lr", group["lr"])
            for group in self.base.param_groups
        ]
        largest = max(rates, key=float)
        self._rates = [lr if float(lr) != 0.0 else largest for lr in rates]
        if callable(train := getattr(self.base, "train", None)):
            train()

    def step(self, factor: float, k: int, *closure: Any) -> list[Tensor]:
        """The moves of a step at ``factor`` times ``lr`` under the k-th gradient."""
        for group, lr in zip(self.base.param_groups, self._rates, strict=True):
            group["lr"] = lr * factor
        for p, gradient in zip(self.params, self._gradients[k], strict=True):
            p.grad = gradient.to(p.device, copy=True)
        before = [p.detach().clone() for p in self.params]
        with undisturbed(None, devices_of(self.params)):  # each draws the same numbers
            self.base.step(*closure)
        moves = [p.detach() - x for p, x in zip(self.params, before, strict=True)]
        if not all(math.isfinite(move.sum().item()) for move in moves):
            raise ArithmeticError("the toy's step is not finite")
        return moves

    def hold(self, steps: int, times: float = 1.0, *, put_back: bool = True) -> list[list[Tensor]]:
        """The moves of steps under a constant gradient: the first one, ``times`` as large.

        With ``put_back`` each of them begins at the weights of the start.
        """
        self._gradients[0] = [times * g for g in self._gradients[0]]
        moves = []
        for _ in range(steps):
            moves.append(self.step(1.0, 0))
            if put_back:
                _params.assign(self.params, self.start)
        return moves

    def travel(self, factor: float) -> list[float]:
        """How far from each other the weights are once settled and after all gradients."""
        for k in range(GRADIENTS):
            if k == SETTLING:
                since = [p.detach().clone() for p in self.params]
            self.step(factor if k >= SETTLING else 1.0, k)
        return [(p.detach() - x).norm().item() for p, x in zip(self.params, since, strict=True)]


def _family(base: Optimizer) -> list[Optimizer]:
    """``base`` and the optimizers that it wraps, at any depth."""
    found: dict[int, Optimizer] = {}
    waiting: list[Any] = [base]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Optimizer) and id(thing) not in found:
            found[id(thing)] = thing
            values = [v for k, v in vars(thing).items() if k not in ("state", "param_groups")]
            waiting += values
            waiting += itertools.chain(*(v for v in values if isinstance(v, list | tuple)))
            waiting += itertools.chain(*(v.values() for v in values if isinstance(v, dict)))
    return list(found.values())


def _samples(base: Optimizer, most: float) -> list[Tensor]:
    """Parameters whose toys get a gradient: ``most`` of each settings and number of dimensions."""
    seen: Counter[tuple[str, int]] = Counter()
    chosen = []
    for group in base.param_groups:
        own = ("params", "param_names", "lr", "initial_lr")
        settings = repr({k: v for k, v in group.items() if k not in own})
        for p in group["params"]:
            if p.requires_grad and p.numel() > 0 and seen[settings, p.dim()] < most:
                seen[settings, p.dim()] += 1
                chosen.append(p)
    return chosen


def _toy_weight(p: Tensor, dtype: torch.dtype, noise: torch.Generator) -> Tensor:
    values = _random([min(d, _SIDE) for d in p.shape], dtype, noise)
    # MPS knows neither float64 nor a generator with an index, meta nothing at all
    device = "cpu" if p.device.type in ("mps", "meta") else p.device
    return torch.nn.Parameter(values.to(device), requires_grad=p.requires_grad)


def _random(shape: Sequence[int], dtype: torch.dtype, noise: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=noise, dtype=dtype, device="cpu")


def _copy_attributes(member: Optimizer, memo: dict[int, Any]) -> None:
    """All of the optimizer's own attributes, not only what it would pickle."""
    twin = memo[id(member)]
    for name, value in vars(member).items():
        if callable(value) and hasattr(type(member), name):
            continue  # a step that a scheduler or a compiler has wrapped is tied to the real one
        has_hooks = name.startswith("_optimizer_") and name.endswith("_hooks")
        try:
            vars(twin)[name] = OrderedDict() if has_hooks else copy.deepcopy(value, memo)
        except Exception:  # a process group, a lock, a stream
            vars(twin)[name] = value


def _corners(member: Optimizer, toys: dict[Tensor, Tensor]) -> dict[int, Tensor]:
    """What has a parameter's shape, cut to its toy's.

    In the state, and in lists of a group that are as long as that of its parameters (DoG).
    """
    state, pairs = vars(member).get("state"), list[tuple[Tensor, Any]]()
    for p, entries in state.items() if isinstance(state, Mapping) else ():
        if p in toys and p.dim() > 0 and isinstance(entries, dict):
            pairs += ((p, value) for value in entries.values())
    for group in member.param_groups:
        params = group["params"]
        for values in group.values():
            if isinstance(values, list) and values is not params and len(values) == len(params):
                pairs += zip(params, values, strict=True)
    return {
        id(value): _corner(value, p, toys[p])
        for p, value in pairs
        if isinstance(value, Tensor) and value.shape == p.shape and value not in toys
    }


def _corner(value: Tensor, p: Tensor, toy: Tensor) -> Tensor:
    corner = value.detach()[tuple(slice(_SIDE) for _ in p.shape)]
    return corner.to(toy.dtype if value.dtype == p.dtype else value.dtype, copy=True)
