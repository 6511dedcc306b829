"""A search by a name of its own: what SLS, GOLS, PLS, ExactLineSearch and FullBatchPAL are."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from surefoot.directions import DirectionRule
from surefoot.optim._keywords import Keyword, formerly, keywords_of
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import FullLoss, LineSearch


class NamedSearch(LineSearch):
    """A :class:`LineSearch` whose keywords are the fields of one search. Abstract.

    Attributes:
        search_class: that search; its docstring speaks for the keywords, too.
        changed: defaults that are not the search's own.
    """

    search_class: ClassVar[type[Any]]
    changed: ClassVar[dict[str, Any]] = {}

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
        names = {field.name for field in dataclasses.fields(self.search_class)}
        own = {name: settings.pop(name) for name in names & settings.keys()}
        settings["search"] = self.search_class(**{**self.changed, **own})
        settings |= {"direction": direction, "full_loss": full_loss}
        super().__init__(params, step_multiplier, **settings)

    @classmethod
    def _keywords(cls) -> dict[str, Keyword]:
        if not hasattr(cls, "search_class"):
            return {}
        return {
            name: keyword._replace(default=cls.changed.get(name, keyword.default))
            for name, keyword in keywords_of(cls.search_class, cls.search_class.internal).items()
        }
