"""Exact line search as an optimizer: to the minimum of the batch loss, or of all the data's."""

from __future__ import annotations

from surefoot.optim.named import NamedSearch
from surefoot.searches.exact import ExactSearch


class ExactLineSearch(NamedSearch):
    r"""Go to the minimum along the line, at every step.

    .. math:: t^* = \arg\min_{t \ge 0} L(\theta + t\, d)

    Not a method to train with but the yardstick for those that are: the papers measure how far
    they are from it, and that on the batch's own loss it trains worse than they do.

    Args:
        params: the model.
        step_multiplier: multiple of the minimum that is taken. Torch's schedulers act on it.
        full_loss: returns the mean loss over all the data, which is then minimized, along the
            batch's direction; see :class:`surefoot.LineSearch`. None for the batch's own loss.
        direction: where to; see :class:`surefoot.LineSearch`. None for the negated gradient.
        **settings: as :class:`surefoot.searches.ExactSearch` has them.
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

    default = ExactSearch(tolerance=1e-2)
