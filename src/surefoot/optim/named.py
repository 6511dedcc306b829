"""A search by a name of its own: what SLS, GOLS, PLS, ExactLineSearch and FullBatchPAL are."""

from __future__ import annotations

from typing import Any, ClassVar

from surefoot.directions import conjugate_or_steepest
from surefoot.optim._keywords import Keyword, formerly, keywords_of
from surefoot.optim.base import ParamsLike
from surefoot.optim.line_search import FullLoss, LineSearch
from surefoot.searches import Search


class NamedSearch(LineSearch):
    """A :class:`LineSearch` whose keywords are the fields of one search. Abstract.

    Attributes:
        search_class: that search; its docstring speaks for the keywords, too.
        changed: defaults that are not the search's own.
        renamed: keyword to field, where they differ.
    """

    search_class: ClassVar[type[Search]]
    changed: ClassVar[dict[str, Any]] = {}
    renamed: ClassVar[dict[str, str]] = {}

    @formerly(lr="step_multiplier")
    def __init__(self, params: ParamsLike, step_multiplier: float = 1.0, **settings: Any) -> None:
        known = {*self._keywords(), *self.search_class.internal}
        own = {name: settings.pop(name) for name in known & settings.keys()}
        fields = {**self.changed, **{self.renamed.get(k, k): v for k, v in own.items()}}
        try:
            search = self.search_class(**fields)
        except (TypeError, ValueError) as error:
            message = str(error)
            for keyword, field in self.renamed.items():
                message = message.replace(field, keyword)
            raise type(error)(message) from None
        super().__init__(params, step_multiplier, search=search, **settings)

    @classmethod
    def _keywords(cls) -> dict[str, Keyword]:
        if not hasattr(cls, "search_class"):
            return {}
        keyword_of = {field: keyword for keyword, field in cls.renamed.items()}
        found = {}
        for field, keyword in keywords_of(cls.search_class, cls.search_class.internal).items():
            doc, name = keyword.doc, keyword_of.get(field, field)
            for old, new in keyword_of.items():
                doc = doc.replace(old, new)
            found[name] = Keyword(cls.changed.get(field, keyword.default), keyword.annotation, doc)
        return found


class FullLossSearch(NamedSearch):
    """One that may search the loss of all the data, along PAL's direction or the gradient's."""

    @formerly(lr="step_multiplier")
    def __init__(
        self,
        params: ParamsLike,
        step_multiplier: float = 1.0,
        *,
        full_loss: FullLoss | None = None,
        direction_adaptation: float = 0.0,
        **settings: Any,
    ) -> None:
        direction = conjugate_or_steepest(direction_adaptation)
        pair = {"direction": direction, "full_loss": full_loss}
        super().__init__(params, step_multiplier, **pair, **settings)
