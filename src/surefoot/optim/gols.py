"""GOLS: double or halve the step until the slope changes its sign."""

from __future__ import annotations

from surefoot.optim.named import NamedSearch
from surefoot.searches.gradient_only import GradientOnlySearch


class GOLS(NamedSearch):
    r"""Gradient-only line search, inexact (GOLS-I): SGD whose rate the sign of the slope decides.

    From the last rate, double while the slope along the line is negative, halve while it is
    positive, accept at once where it is positive and small,
    :math:`0 < L'(t) < c_2 |L'(0)|`. A forward and a backward pass at each place.

    The closure may draw a new batch at every call, as in the paper (dynamic sub-sampling): only
    signs of slopes are compared, never losses. With a closure that keeps its batch, the line is
    that batch's.

    Args:
        params: the model.
        step_multiplier: multiple of the accepted rate that is taken. Torch's schedulers act on it.
        direction: where to; see :class:`surefoot.LineSearch`. None for the negated gradient.
        full_loss: None for the loss of the step's own batch; see there.
        **settings: as :class:`surefoot.searches.GradientOnlySearch` has them; each ``t`` is a rate.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.GOLS(model)
        >>> for _ in range(40):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Kafka and Wilke, "Gradient-only line searches: an alternative to probabilistic line
    searches", 1903.09383.

    Departures: the gradient at the accepted place is not reused as the next step's; see also
    :class:`surefoot.searches.GradientOnlySearch`.

    *When it fails*: on one batch's line, steps end behind the minimum by up to ``factor``.
    """

    default = GradientOnlySearch()
