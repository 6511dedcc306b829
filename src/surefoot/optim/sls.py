"""SLS: the longest step that makes the batch loss fall enough."""

from __future__ import annotations

from typing import Any

from surefoot._numbers import check_count, check_number
from surefoot.optim._keywords import formerly
from surefoot.optim.base import ParamsLike
from surefoot.optim.named import NamedSearch
from surefoot.searches.armijo import ArmijoSearch


class SLS(NamedSearch):
    r"""Stochastic line search (SLS): SGD whose rate backs off until the batch loss falls enough.

    .. math:: L(\theta - \eta\, g) \le L(\theta) - c\, \eta\, \lVert g \rVert^2

    Args:
        params: the model.
        step_multiplier: multiple of the accepted rate that is taken. The condition holds for 1.
        reset_growth: γ, by how much the rate may grow in an epoch.
        dataset_size, batch_size: for ``reset="growing"``; 500 batches per epoch if not given, as
            in the authors' code.
        **settings: as :class:`surefoot.searches.ArmijoSearch` has them; each ``t`` is a rate.
        **shared: keywords of every line search.

    Example:
        >>> import torch, surefoot
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 3)
        >>> y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = surefoot.SLS(model)
        >>> for _ in range(60):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
        >>> bool(loss < 1e-3)
        True

    References: Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien, "Painless stochastic
    gradient: interpolation, line-search, and convergence rates", 1905.09997; algorithms 1 and 2.

    Departures: where no rate is accepted, the step is 0 (released code: 1e-6) and the rate is kept.

    *When it fails*: without interpolation, or with small batches, the accepted rate is that of
    one batch and too long for the others; with BatchNorm the rate tends to grow to η_max.
    """

    default = ArmijoSearch(reset="growing")

    @formerly(lr="step_multiplier", max_rate="max_t")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        reset_growth: float = 2.0,
        dataset_size: int | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        check_number("reset_growth", reset_growth, at_least=1.0)
        share = 1.0 / 500.0
        if dataset_size is not None and batch_size is not None:
            batches = check_count("batch_size", batch_size)
            share = batches / check_count("dataset_size", dataset_size)
        settings["growth_per_step"] = reset_growth**share
        super().__init__(params, step_multiplier, **settings)
