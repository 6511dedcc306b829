"""GeN (Bu and Xu 2024): a parabola through three losses along any optimizer's next update."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from GeN.GeN import lr_parabola
from torch import Tensor

from benchmarks.rivals.remember import parameters_of
from surefoot._quiet import RngState
from surefoot_lab.build import find


class GeN(torch.optim.Optimizer):
    """gen-optim's `lr_parabola` as an optimizer: every few steps it corrects the base's rate.

    The package's loop measures on the batch after the one that gave the gradient; here it is the
    same batch, because a closure has no other. As in the package, a measuring step advances the
    base optimizer's averages twice, and the rate moves by at most a tenth of a factor of two.

    Args:
        params: the parameters.
        lr: the rate to begin with.
        base: name of an optimizer of torch.optim.
        every: steps between measurements.
        total_steps: if given, a measured rate counts less and less, to nothing at the end.
        base_args: further arguments of the base.
    """

    wants_closure: ClassVar[str] = "backward"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        base: str = "AdamW",
        every: int = 8,
        total_steps: int | None = None,
        base_args: dict[str, Any] | None = None,
    ) -> None:
        params = list(params)
        super().__init__(params, {"lr": lr})
        constructor = find(base, ["torch.optim"], "optimizer.init_args.base", torch.optim.Optimizer)
        self._base: torch.optim.Optimizer = constructor(params, lr=lr, **(base_args or {}))
        self._every = every
        self._total_steps = total_steps
        self._steps = 0
        self._share()

    def step(self, closure: Callable[..., Tensor]) -> Tensor:  # type: ignore[override]
        """One step of the base, measured before if it is time."""
        devices = {parameter.device for parameter in parameters_of(self)}
        start = RngState.capture(devices)
        with torch.enable_grad():
            loss = closure()
        end = RngState.capture(devices)
        self._steps += 1
        if self._steps % self._every == 0:
            self._measure(closure, start)
            end.restore()
        self._base.step()
        return loss

    def _measure(self, closure: Callable[..., Tensor], start: RngState) -> None:
        parameters = parameters_of(self)
        nothing = torch.zeros(1, device=parameters[0].device)
        horizon = 1.0 if self._total_steps is None else 1.0 - self._steps / self._total_steps

        def loss_of(_: Tensor) -> Tensor:
            start.restore()  # the same dropout masks at all three places
            return closure(backwards=False)

        with contextlib.redirect_stdout(io.StringIO()):  # it prints why a fit failed
            lr_parabola(
                _Network(parameters, loss_of),
                self._base,
                criterion=lambda outputs, _: outputs,
                tr_iter=iter([(nothing, nothing)]),
                device=nothing.device,
                task="image_cls",
                scale=horizon,
                lr_factor=[-1, 0, 1],  # the package changes the list it is given
            )

    def state_dict(self) -> dict[str, Any]:
        """The base's state, and the number of steps."""
        return {**self._base.state_dict(), "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put both back."""
        self._base.load_state_dict({k: v for k, v in state_dict.items() if k != "steps"})
        self._steps = state_dict["steps"]
        self._share()

    def _share(self) -> None:
        """Groups and state are the base's, so that schedulers and logs see its rate."""
        self.param_groups = self._base.param_groups
        self.state = self._base.state


class _Network:
    """Stands where `lr_parabola` expects a network: called, it is the loss."""

    def __init__(self, parameters: list[Tensor], loss_of: Callable[[Tensor], Tensor]) -> None:
        self._parameters = parameters
        self._loss_of = loss_of

    def parameters(self) -> list[Tensor]:
        return self._parameters

    def __call__(self, inputs: Tensor) -> Tensor:
        return self._loss_of(inputs)
