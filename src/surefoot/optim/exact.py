"""Exact line search as an optimizer: to the minimum of the batch loss, or of all the data's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from surefoot.directions import conjugate_or_steepest
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import FullLoss, LineSearch
from surefoot.searches.exact import ExactSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ExactLineSearch(LineSearch):
    r"""Go to the minimum along the line, at every step.

    .. math:: t^* = \arg\min_{t \ge 0} L(\theta + t\, d)

    Not a method to train with but the yardstick for those that are: the papers measure how far
    they are from it, and that on the batch's own loss it trains worse than they do.

    Args:
        params: the model.
        step_multiplier: multiple of the minimum that is taken. Torch's schedulers act on it.
        full_loss: a callable that returns the mean loss over all the data at the present
            weights; then that loss is minimized, along the batch's direction. Where it has an
            attribute ``batches``, each call counts as so many passes. With several processes, each
            passes the loss of its share. None for the loss of the step's own batch.
        method: ``"brent"``, ``"golden"`` or ``"binary"``, see
            :class:`surefoot.searches.ExactSearch`.
        first_length: first distance tried in the first step; later steps start from the last
            length found.
        max_length: largest distance.
        tolerance: relative error of the minimum's place.
        max_evaluations: budget of a step.
        direction_adaptation: β of PAL's conjugate-like direction; 0 for the negated gradient.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.ExactLineSearch(model)
        >>> for _ in range(20):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Mutschler and Zell, 1903.11991, for the comparison on batch losses; Mutschler and
    Zell, 2103.17132, for that on full-batch losses.

    *When it fails*: on batch losses, by design: see the documentation.
    """

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        full_loss: FullLoss | None = None,
        method: Literal["brent", "golden", "binary"] = "brent",
        first_length: float = 0.1,
        max_length: float = 10.0,
        tolerance: float = 1e-2,
        max_evaluations: int = 60,
        direction_adaptation: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        search = ExactSearch(
            method=method,
            first_length=first_length,
            max_length=max_length,
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
        super().__init__(
            params,
            step_multiplier,
            search=search,
            direction=conjugate_or_steepest(direction_adaptation),
            full_loss=full_loss,
            **shared,
        )
