"""What the runs have in common, in what the methods differ, and where they ran."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from surefoot_lab.values import flat

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

# What differs by nature or repeats what stands elsewhere, and so says nothing in a comparison.
_LEFT_OUT = ("name", "label", "seed", "filled_in")


@dataclass(frozen=True)
class Settings:
    """Resolved experiments, or environments, taken apart.

    Attributes:
        common: what all runs have, by dotted key.
        differing: the other keys: of a label (of an environment, its place) what its runs have,
            each value where they disagree.
        runs: how many there are of each.
    """

    common: dict[str, str]
    differing: dict[Any, dict[str, str]]
    runs: dict[Any, int]

    @property
    def keys(self) -> list[str]:
        """The keys in which they differ."""
        return list(dict.fromkeys(key for row in self.differing.values() for key in row))


def settings(runs: Iterable[RunRecord]) -> Settings:
    """Split the resolved experiments into what is common and what differs by label."""
    runs = list(runs)
    rows = [{k: v for k, v in run.experiment.items() if k not in _LEFT_OUT} for run in runs]
    return _taken_apart(rows, [run.label for run in runs])


def environments(runs: Iterable[RunRecord]) -> Settings:
    """The same of the distinct environments, in order of appearance; a package's version stands by
    its name.
    """
    found = [{k.rpartition(".")[2]: v for k, v in flat(run.environment).items()} for run in runs]
    return _taken_apart(found, list(pd.factorize(pd.Series(map(str, found)))[0]))


def _taken_apart(rows: list[dict[str, Any]], labels: list[Any]) -> Settings:
    texts = [{key: _text(value) for key, value in flat(row).items()} for row in rows]
    table = pd.DataFrame(texts, dtype=object)
    common = [key for key in table if table[key].nunique(dropna=False) == 1]
    groups = table.drop(columns=common).groupby(pd.Series(labels), sort=False)
    differing = {
        label: {k: " / ".join(own[k].dropna().unique()) for k in own if own[k].notna().any()}
        for label, own in groups
    }
    return Settings(table[common].iloc[0].to_dict(), differing, groups.size().to_dict())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
