"""FBPAL: PAL's parabola through the full-batch loss, at every step."""

from __future__ import annotations

from surefoot.optim.named import NamedSearch
from surefoot.searches.large_batch import LargeBatchSearch


class FullBatchPAL(NamedSearch):
    r"""Full-batch parabolic approximation line search (FBPAL).

    Along the direction of the step's batch, the loss of *all* the data at 0, μ/2 and μ determines
    a parabola; the step goes to α times its minimum. Three passes over the data a step: a
    yardstick for the cheap methods, not a rival of theirs.

    Args:
        params: the model.
        step_multiplier: α, multiple of the measured minimum that is taken.
        full_loss: returns the mean loss over all the data; see :class:`surefoot.LineSearch`. None
            where the step's batch is all the data.
        direction: where to; see :class:`surefoot.LineSearch`. None for the negated gradient.
        **settings: as :class:`surefoot.searches.LargeBatchSearch` has them; μ as in 2103.17132.
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

    default = LargeBatchSearch(measuring_length=0.1, max_length=3.16, not_convex="probe")
