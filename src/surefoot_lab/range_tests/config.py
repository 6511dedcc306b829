"""What a range test on the command line may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from surefoot_lab.values import NotNegative, Positive, Real, Settings, Truth, Whole


@dataclass(frozen=True)
class RangeTestConfig(Settings):
    """One range test, or a grid of them, all in one picture with a panel a batch size.

    Attributes:
        start_lr: lowest rate.
        end_lr: highest rate.
        num_iter: optimizer steps.
        step_mode: how the rate rises, `exp` or `linear`.
        validate: measure on validation images, too.
        batch_sizes: images per step, a range test for each.
        weight_decays: of the optimizer, a range test for each.
    """

    start_lr: Real = 1e-7
    end_lr: Real = 10.0
    num_iter: Whole = 100
    step_mode: Literal["exp", "linear"] = "exp"
    validate: Truth = False
    batch_sizes: tuple[Positive, ...] = ()
    weight_decays: tuple[NotNegative, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "weight_decays"):
            values = list(getattr(self, name))
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name}: {twice[0]} is given twice")

    @property
    def of_each(self) -> dict[str, Any]:
        """What `measure` takes."""
        return {k: v for k, v in vars(self).items() if k not in ("batch_sizes", "weight_decays")}
