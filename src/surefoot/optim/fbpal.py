"""FBPAL: PAL's parabola through the full-batch loss, at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surefoot._numbers import check_number
from surefoot.directions import conjugate_or_steepest
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import FullLoss, LineSearch
from surefoot.searches.large_batch import LargeBatchSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FullBatchPAL(LineSearch):
    r"""Full-batch parabolic approximation line search (FBPAL).

    Along the direction of the step's batch, the loss of *all* the data at 0, μ/2 and μ determines
    a parabola; the step goes to α times its minimum. Three passes over the data a step: a
    yardstick for the cheap methods, not a rival of theirs.

    Args:
        params: the model.
        step_multiplier: α, multiple of the measured minimum that is taken.
        full_loss: a callable that returns the mean loss over all the data at the present
            weights. Where it has an attribute ``batches``, each call counts as so many passes. With
            several processes, each passes the loss of its share. None where the step's batch is
            all the data.
        measuring_length: μ, distance of the farther probe, in units of the weights; 0.1 in
            2103.17132.
        max_length: largest distance moved in a step, before α.
        direction_adaptation: β of PAL's conjugate-like direction; 0 for the negated gradient.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model, loss_fn = torch.nn.Linear(3, 1), torch.nn.functional.mse_loss
        >>> optimizer = surefoot.FullBatchPAL(model, full_loss=lambda: loss_fn(model(x), y))
        >>> for i in range(80):
        ...     part = slice(16 * (i % 4), 16 * (i % 4) + 16)
        ...     loss = optimizer.step(lambda: loss_fn(model(x[part]), y[part]))
        >>> bool(loss < 1e-3)
        True

    References: Mutschler and Zell, "Empirically explaining SGD from a line search perspective",
    2103.17132.

    Departures: three losses instead of two and a slope, because a slope of the full-batch loss
    costs a backward pass over all the data.

    *When it fails*: it is as greedy as an exact search on the full-batch loss.
    """

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        full_loss: FullLoss | None = None,
        measuring_length: float = 0.1,
        max_length: float = 3.16,
        direction_adaptation: float = 0.0,
        **shared: Unpack[Shared],
    ) -> None:
        check_number("max_length", max_length, at_least=0.0, above=True)
        search = LargeBatchSearch(
            measuring_length=measuring_length, max_length=max_length, not_convex="probe"
        )
        super().__init__(
            params,
            step_multiplier,
            search=search,
            direction=conjugate_or_steepest(direction_adaptation),
            full_loss=full_loss,
            **shared,
        )
