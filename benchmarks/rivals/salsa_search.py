"""SaLSa (Kenneweg, Kenneweg, Fumagalli, Hammer 2024): an Armijo search smoothed over steps."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from salsa.SaLSA import SaLSA as PackagedSaLSA
from torch import Tensor

from benchmarks.rivals.remember import Remembers, parameters_of
from surefoot._quiet import RngState


class SaLSA(Remembers, PackagedSaLSA):  # type: ignore[misc]  # its package has no types
    """SaLSa on Adam's direction, without the clock in its random numbers.

    The package seeds every evaluation with the second of the day and leaves NumPy's generator so
    seeded. Here all evaluations of a step see the same random numbers, and torch's generator ends
    where one forward pass leaves it.

    Args:
        params: the parameters.
        init_step_size: the first step tried.
        c: of the sufficient decrease.
        momentum: decay of the averages of gradient, its square, and the loss decrease.
        speed_up: search only as often as the step changes.
        use_mv: search along Adam's averaged direction.
    """

    wants_closure: ClassVar[str] = "backward"
    remembered: ClassVar[tuple[str, ...]] = (
        *("step_size", "tslls", "avg_step_size_slow", "avg_step_size_fast"),
        *("avg_decrease", "avg_gradient_norm"),
    )

    def __init__(
        self,
        params: Iterable[Any],
        init_step_size: float = 1,
        c: float = 0.5,
        momentum: tuple[float, float, float] = (0.9, 0.999, 0.9),
        speed_up: bool = True,
        use_mv: bool = False,
    ) -> None:
        super().__init__(params, init_step_size, c, tuple(momentum), speed_up, use_mv)
        device = parameters_of(self)[0].device
        # The package takes a GPU where there is one, wherever the parameters are.
        vars(importlib.import_module("salsa.SaLSA"))["device"] = device
        self.avg_decrease = torch.zeros(1, device=device)
        self.avg_gradient_norm = torch.zeros(1, device=device)

    def step(self, closure: Callable[..., Tensor]) -> Tensor:
        """One step; the closure runs the backward pass where it is called with `backwards=True`."""
        devices = {parameter.device for parameter in parameters_of(self)}
        start = RngState.capture(devices)
        ends: list[RngState] = []

        def same_numbers(backwards: bool = False) -> Tensor:
            start.restore()
            loss = closure(backwards=backwards)
            ends.append(RngState.capture(devices))
            return loss

        numpy_state = np.random.get_state()  # noqa: NPY002
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints where losses are equal
                loss: Tensor = super().step(same_numbers)
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            (ends or [start])[0].restore()
        self.param_groups[0]["effective_lr"] = float(self.step_size)
        return loss
