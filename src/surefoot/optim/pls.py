"""PLS: a Gaussian process along the line, and the first place that probably will do."""

from __future__ import annotations

from surefoot.optim.named import NamedSearch
from surefoot.searches.probabilistic import ProbabilisticSearch


class PLS(NamedSearch):
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
        direction: where to; see :class:`surefoot.LineSearch`. None for the negated gradient.
        full_loss: None for the loss of the step's own batch; see there.
        **settings: as :class:`surefoot.searches.ProbabilisticSearch` has them.
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

    default = ProbabilisticSearch(max_evaluations=7)
