"""GOLS: double or halve the step until the slope changes its sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surefoot._numbers import check_number
from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import LineSearch
from surefoot.searches.gradient_only import GradientOnlySearch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GOLS(LineSearch):
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
        start: learning rate that the first step tries first; 1e-8 in the paper, from where it
            doubles some twenty times, once.
        overshoot: c₂.
        factor: η, by which a rate grows or shrinks.
        min_rate: smallest rate tried.
        max_rate: largest rate tried.
        max_length: largest distance moved, in units of the weights.
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

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        start: float = 1e-8,
        overshoot: float = 0.9,
        factor: float = 2.0,
        min_rate: float = 1e-8,
        max_rate: float = 1e7,
        max_length: float = 1.0,
        **shared: Unpack[Shared],
    ) -> None:
        check_number("min_rate", min_rate, at_least=0.0, above=True)
        check_number("max_rate", max_rate, at_least=min_rate)
        search = GradientOnlySearch(
            start=start,
            overshoot=overshoot,
            factor=factor,
            min_t=min_rate,
            max_t=max_rate,
            max_length=max_length,
        )
        super().__init__(params, step_multiplier, search=search, **shared)
