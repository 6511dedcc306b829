"""What the runs have in common, in what the methods differ, and where they ran."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot_lab.records import RunRecord

# What differs by nature or repeats what stands elsewhere, and so says nothing in a comparison.
_LEFT_OUT = ("name", "label", "seed", "filled_in")


@dataclass(frozen=True)
class Settings:
    """Resolved experiments taken apart: `common` to all runs, and `differing` by label.

    Keys are dotted paths, values compact JSON. A label whose own runs disagree shows each value.
    """

    common: dict[str, str]
    differing: dict[str, dict[str, str]]

    @property
    def keys(self) -> list[str]:
        """The keys in which the labels differ."""
        return list(dict.fromkeys(key for row in self.differing.values() for key in row))


def settings(runs: Iterable[RunRecord]) -> Settings:
    """Split the resolved experiments into what is common and what differs."""
    flat: list[tuple[str, dict[str, str]]] = []
    for run in runs:
        flat.append((run.label, {k: _text(v) for k, v in _flatten(run.experiment)}))
    keys = list(dict.fromkeys(key for _, row in flat for key in row))
    common = {key: flat[0][1][key] for key in keys if len({row.get(key) for _, row in flat}) == 1}
    differing: dict[str, dict[str, str]] = {}
    for label in dict.fromkeys(label for label, _ in flat):
        rows = [row for other, row in flat if other == label]
        differing[label] = {
            key: " / ".join(dict.fromkeys(row[key] for row in rows if key in row))
            for key in keys
            if key not in common and any(key in row for row in rows)
        }
    return Settings(common, differing)


def environments(runs: Iterable[RunRecord]) -> list[tuple[dict[str, str], int]]:
    """The distinct environments in order of appearance, each with its number of runs.

    An entry that is empty says nothing and is left out; versions stand by their package's name.
    """
    found = Counter(
        tuple((key.rpartition(".")[2], str(value)) for key, value in _flatten(run.environment))
        for run in runs
    )
    return [(dict(environment), count) for environment, count in found.items()]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if not prefix and key in _LEFT_OUT:
            continue
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.")
        elif item not in (None, ""):  # null stands for "not asked for"
            yield f"{prefix}{key}", item


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
