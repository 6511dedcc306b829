"""check_optimizer finds the faults it is there to find: one deliberate fault, one clause."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _contract import OPTIMIZER_CONTRACTS, check_optimizer
from torch import Tensor

from surefoot import PAL, SLS, LineSearchOptimizer
from surefoot._closure import Closure
from surefoot.outcome import StepOutcome


class Broken(SLS):
    """A good optimizer with one fault, put in from outside."""

    fault: Callable[[Any, Callable[[], Tensor]], Tensor]

    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        if closure is None:
            return super().step(None)
        return type(self).fault(self, closure)

    def good(self, closure: Any) -> Tensor:
        return super().step(closure)


def only_first_group(self: Broken, closure: Any) -> Tensor:
    others = [p for group in self.param_groups[1:] for p in group["params"]]
    kept = [p.detach().clone() for p in others]
    loss = self.good(closure)
    with torch.no_grad():
        for p, k in zip(others, kept, strict=True):
            p.copy_(k)
    return loss


def extra_forward(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    closure()
    return loss


def random_numbers(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    torch.rand(1)
    return loss


def moves_without_rate(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(0.999)
    return loss


def decays_twice(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1.0 - group["weight_decay"])
    return loss


def moves_frozen(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.999)
    return loss


def graph_in_the_loss(self: Broken, closure: Any) -> Tensor:
    return self.good(closure).requires_grad_()


def no_undo(self: Broken, closure: Any) -> Tensor:
    try:
        return self.good(closure)
    except BaseException:
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1e-3)
        raise


def hidden_memory(self: Broken, closure: Any) -> Tensor:
    self.hidden = getattr(self, "hidden", 0) + 1  # type: ignore[attr-defined]
    loss = self.good(closure)
    with torch.no_grad():
        self.param_groups[0]["params"][0].mul_(1.0 - 1e-3 * self.hidden)
    return loss


def steps_on_nan(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    if not math.isfinite(float(loss)):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(loss)
    return loss


def a_string_in_the_state(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    self.state[self.param_groups[0]["params"][0]]["note"] = "hello"
    return loss


def an_enum_in_the_group(self: Broken, closure: Any) -> Tensor:
    loss = self.good(closure)
    assert self.last is not None
    self.param_groups[0]["last_status"] = self.last.status
    return loss


def remembers_grad(self: Broken, closure: Any) -> Tensor:
    """Keeps a reference to ``.grad``, which zero_grad(set_to_none=False) wipes."""
    p = self.param_groups[0]["params"][0]
    with torch.no_grad():
        if p.grad is not None:
            p.add_(p.grad, alpha=-1e-3)
    return self.good(closure)


FAULTS: list[tuple[str, Callable[..., Tensor]]] = [
    ("moves_by_its_effective_lr", only_first_group),
    ("moves_by_its_effective_lr", moves_without_rate),
    ("decays_weights_by_the_effective_lr", decays_twice),
    ("follows_schedulers", moves_without_rate),
    ("stops_at_its_horizon", moves_without_rate),
    ("changes_buffers_once", extra_forward),
    ("leaves_random_numbers_as_sgd_does", random_numbers),
    ("returns_the_loss_at_the_start", graph_in_the_loss),
    ("leaves_frozen_parameters_alone", moves_frozen),
    ("leaves_no_trace_of_an_exception", no_undo),
    ("counts_what_it_spends", extra_forward),
    ("rejects_non_finite_losses", steps_on_nan),
    ("resumes_to_the_bit", hidden_memory),
    ("survives_copies", hidden_memory),
    ("keeps_plain_state", a_string_in_the_state),
    ("keeps_plain_state", an_enum_in_the_group),
    ("does_not_mind_zero_grad", remembers_grad),
]


def broken(fault: Callable[..., Tensor]) -> Callable[..., LineSearchOptimizer]:
    return type("Broken", (Broken,), {"fault": staticmethod(fault)})


# two faults differ from copy to copy of the optimizer, so pickle must find the class
BY_CLASS = {fault.__name__: broken(fault) for _, fault in FAULTS}
for _name, _class in BY_CLASS.items():
    _class.__qualname__ = _class.__name__ = f"Broken_{_name}"
    globals()[_class.__name__] = _class


@pytest.mark.parametrize(("clause", "fault"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_fault_is_found(clause: str, fault: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError, match=clause):
        check_optimizer(BY_CLASS[fault.__name__], contracts=[clause])


def test_a_scheduled_key_of_its_own_is_found() -> None:
    def factory(params: Any, **options: Any) -> LineSearchOptimizer:
        optimizer = SLS(params, **options)
        for group in optimizer.param_groups:
            group["momentum"] = 0.9
        return optimizer

    with pytest.raises(AssertionError, match="momentum"):
        check_optimizer(factory, contracts=["follows_schedulers"])


def test_probes_in_nan_are_found() -> None:
    class Trusting(PAL):
        def _settle(self, found: StepOutcome, direction: Any) -> StepOutcome:
            import dataclasses

            return dataclasses.replace(found, t=0.1, length=0.1)

    with pytest.raises(AssertionError, match="ended in NaN"):
        check_optimizer(Trusting, contracts=["never_ends_in_nan"])


def test_closures_with_backward_that_lead_elsewhere_are_found() -> None:
    class Confused(SLS):
        def _advance(self, call: Closure) -> tuple[Tensor, StepOutcome]:
            loss, outcome = super()._advance(call)
            if call.calls_backward:
                loss = loss * 1.01
            return loss, outcome

    confused: Any = type("Confused", (Confused,), {})
    first = [0]

    def factory(params: Any, **options: Any) -> LineSearchOptimizer:
        first[0] += 1
        return confused(params, **options) if first[0] > 1 else SLS(params, **options)

    with pytest.raises(AssertionError, match="accepts_both_kinds_of_closure"):
        check_optimizer(factory, contracts=["accepts_both_kinds_of_closure"])


def test_an_optimizer_that_never_checks_its_closure_is_found() -> None:
    check_optimizer(PAL, repeatable=False, contracts=["explains_misuse"])
    with pytest.raises(AssertionError, match="no NotRepeatableError"):
        check_optimizer(PAL, repeatable=True, contracts=["explains_misuse"])


def test_the_check_itself_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_optimizer(SLS, contracts=["counts_what_it_spends"])
    assert torch.equal(before, torch.get_rng_state())


def test_no_clause_was_lost() -> None:
    assert len(OPTIMIZER_CONTRACTS) == len(set(OPTIMIZER_CONTRACTS)) >= 20
