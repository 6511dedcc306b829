"""DoG and LDoG (Ivgi, Hinder, Carmon 2023), evaluated at the average of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from dog import DoG, LDoG, PolynomialDecayAverager
from torch import Tensor, nn

from benchmarks.rivals.remember import fill_missing_gradients, parameters_of


class _Averaged:
    """Keeps the polynomial-decay average that the authors call crucial; `eval` switches to it."""

    def __init__(
        self,
        params: Iterable[Any],
        reps_rel: float = 1e-6,
        lr: float = 1.0,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        init_eta: float | None = None,
        gamma: float = 8.0,
    ) -> None:
        super().__init__(params, reps_rel, lr, weight_decay, eps, init_eta)  # type: ignore[call-arg]
        # The averager wants a module; the list holds the very parameters that are trained.
        weights = nn.ParameterList(parameters_of(self))  # type: ignore[arg-type]
        self._averager = PolynomialDecayAverager(weights, gamma)
        self._evaluates = False

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step, and one more summand of the average."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        fill_missing_gradients(self)  # type: ignore[arg-type]
        super().step()  # type: ignore[misc]
        self._averager.step()
        for group in self.param_groups:  # type: ignore[attr-defined]
            etas = {float(eta) for eta in group["eta"]}
            group["effective_lr"] = etas.pop() if len(etas) == 1 else None  # LDoG: one a tensor
        return loss

    def eval(self) -> None:
        """Go to the average; nothing happens if already there."""
        self._swap(to_average=True)

    def train(self) -> None:
        """Go back to the weights that are trained, bit for bit."""
        self._swap(to_average=False)

    @torch.no_grad()
    def _swap(self, to_average: bool) -> None:
        if self._evaluates == to_average:
            return
        averages = self._averager.averaged_model.parameters()
        for weight, average in zip(parameters_of(self), averages, strict=True):  # type: ignore[arg-type]
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self._evaluates = to_average

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the average, as in training."""
        if self._evaluates:
            raise RuntimeError("call train() before the state is saved")
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return {**state, "average": self._averager.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put both back."""
        own = {name: value for name, value in state_dict.items() if name != "average"}
        super().load_state_dict(own)  # type: ignore[misc]
        self._averager.load_state_dict(state_dict["average"])


class AveragedDoG(_Averaged, DoG):  # type: ignore[misc]  # its package has no types
    """DoG: the rate is the largest distance from the start over the root of all squared gradients.

    Args:
        params: the parameters.
        reps_rel: first movement relative to 1 + the weights' norm; 1e-4 for nets with BatchNorm.
        lr: the paper's c; leave it 1.
        weight_decay: added to the gradient.
        eps: for stability.
        init_eta: rate of the first step, instead of `reps_rel`.
        gamma: of the average: the higher, the more recent.
    """


class AveragedLDoG(_Averaged, LDoG):  # type: ignore[misc]
    """DoG with a distance and a rate for each tensor; arguments as :class:`AveragedDoG`."""
