"""A search by a name of its own: what SLS, GOLS, PLS, ExactLineSearch and FullBatchPAL are."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from surefoot.directions import DirectionRule
from surefoot.optim._keywords import Keyword, formerly, keywords_of
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import FullLoss, LineSearch
from surefoot.searches import Search


class NamedSearch(LineSearch):
    """A :class:`LineSearch` whose keywords are the fields of one search. Abstract.

    Attributes:
        default: that search with its defaults; its docstring speaks for the keywords, too.
    """

    default: ClassVar[Search]

    @formerly(lr="step_multiplier", min_rate="min_t", max_rate="max_t")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        direction: DirectionRule | None = None,
        full_loss: FullLoss | None = None,
        **settings: Any,
    ) -> None:
        own = {name: settings.pop(name) for name in vars(self.default).keys() & settings.keys()}
        settings["search"] = dataclasses.replace(self.default, **own)  # type: ignore[type-var]
        settings |= {"direction": direction, "full_loss": full_loss}
        super().__init__(params, step_multiplier, **settings)

    @classmethod
    def _keywords(cls) -> dict[str, Keyword]:
        if not hasattr(cls, "default"):
            return {}
        keywords = keywords_of(type(cls.default), cls.default.internal)
        return {n: k._replace(default=getattr(cls.default, n)) for n, k in keywords.items()}
