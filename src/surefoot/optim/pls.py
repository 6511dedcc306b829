"""PLS: a Gaussian process along the line, and the first place that probably will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surefoot.optim._keywords import Shared, formerly
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import LineSearch
from surefoot.searches.probabilistic import ProbabilisticSearch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PLS(LineSearch):
    r"""Probabilistic line search (PLS): SGD whose rate meets the Wolfe conditions, probably.

    A Gaussian process, updated with the values and slopes seen along the line and with how noisy
    they are, gives the probability that a rate meets the strong Wolfe conditions on the
    noise-free loss; the first rate for which it exceeds c_W is taken. A forward and a backward
    pass at each place.

    How noisy a batch is, is measured in one of two ways:

    - The closure returns the loss of every sample (``reduction="none"``). Then the spread within
      the batch tells, as in the paper, and costs nothing: values from the losses, slopes from the
      differences between the losses of the same samples at 0 and at the first place.
    - The closure returns their mean. Then the loss and the slope of two successive batches at one
      place tell, averaged exponentially over the steps; the first step believes in no noise.

    Args:
        params: the model.
        step_multiplier: multiple of the accepted rate that is taken. Torch's schedulers act on it.
        start: α₀, learning rate that the first step tries first.
        sufficient_decrease: c₁.
        curvature: c₂.
        threshold: c_W.
        growth: the next step tries this many times the accepted rate first.
        max_change: where that is further than this factor away from the average accepted rate,
            the average is tried instead.
        max_evaluations: budget of a step.
        averaging: weight of the past in the noise measured between batches.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.PLS(model)
        >>> def losses():
        ...     return torch.nn.functional.mse_loss(model(x), y, reduction="none")[:, 0]
        >>> for _ in range(40):
        ...     loss = optimizer.step(losses)
        >>> bool(loss < 1e-3)
        True

    References: Mahsereci and Hennig, "Probabilistic line searches for stochastic optimization",
    1502.02846; sections 3.3 for the rates, 3.4 for the noise.

    Departures: slopes' noise comes from differences of losses, which needs no per-sample gradients
    and neglects no covariance between parameters; all places of a line are evaluated on one
    batch, unless the closure draws a new one at every call.

    *When it fails*: the noise of one batch at two places is nearly the same noise, and the model
    takes it for independent.
    """

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        start: float = 0.01,
        sufficient_decrease: float = 0.05,
        curvature: float = 0.5,
        threshold: float = 0.3,
        growth: float = 1.3,
        max_change: float = 100.0,
        max_evaluations: int = 7,
        averaging: float = 0.9,
        **shared: Unpack[Shared],
    ) -> None:
        search = ProbabilisticSearch(
            start=start,
            sufficient_decrease=sufficient_decrease,
            curvature=curvature,
            threshold=threshold,
            growth=growth,
            max_change=max_change,
            max_evaluations=max_evaluations,
            averaging=averaging,
        )
        super().__init__(params, step_multiplier, search=search, **shared)
