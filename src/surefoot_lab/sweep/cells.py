"""From `grid:` and `random:` to the runs they stand for."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from surefoot_lab.config import Experiment, SweepConfig
from surefoot_lab.errors import UserError
from surefoot_lab.parse import check_key, parse_values, put
from surefoot_lab.training.log import FREE_ON_RESUME
from surefoot_lab.values import Finite, Positive, Settings, Whole, plain, shown, validated

SECTIONS = [name for name, value in vars(Experiment()).items() if is_dataclass(value)]
# Settings that earlier sweeps do not have, with what they stand for there.
ADDED: dict[str, Any] = {
    "data.class_path": None,
    "data.init_args": {},
    "data.header": None,
    "loss": {"class_path": None, "init_args": {}},
}
DIGITS = 4  # of a random value: enough to repeat it by hand


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        experiment: what is run; its label names the method and the cell.
        method: the method alone, the same in all cells.
        cell: the settings that make this cell, by dotted key, without the seed.
        fingerprint: a hash of everything that decides the result; names the run's directory.
    """

    experiment: Experiment
    method: str
    cell: dict[str, Any]
    fingerprint: str

    @property
    def mark(self) -> dict[str, Any]:
        """What the record says about the sweep."""
        return {"method": self.method, "cell": self.cell}


def trials_of(base: Experiment, sweep: SweepConfig) -> list[Trial]:
    """All runs of a sweep, in the order of the file: the last key changes fastest.

    Args:
        base: the experiment without `grid` and `random`.
        sweep: these sections.

    Raises:
        UserError: a key or value cannot be used, or two cells are the same run.
    """
    trials: dict[str, Trial] = {}
    for drawn in _samples(plain(sweep.random)):
        for values in _combinations(plain(sweep.grid)):
            trial = _trial(base, {**drawn, **values})
            if trial.fingerprint in trials:
                raise UserError(f"grid: twice the same run, {trial.experiment.label}")
            trials[trial.fingerprint] = trial
    return list(trials.values())


def _combinations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    for key, values in grid.items():
        _check_key(key, "grid")
        if not isinstance(values, list) or not values:
            raise UserError(f"grid.{key}: must be a list of values, not {shown(values)}")
    rows = itertools.product(*grid.values())
    return [dict(zip(grid, row, strict=True)) for row in rows]


def _samples(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The draws: more samples leave the first ones as they are."""
    if not section:
        return [{}]
    ranges = {key: value for key, value in section.items() if key not in ("samples", "seed")}
    asked = validated(_Asked, {k: v for k, v in section.items() if k not in ranges}, "random")
    for key in ranges:
        _check_key(key, "random")
    draws = {key: validated(_Range, what, f"random.{key}") for key, what in ranges.items()}
    source = random.Random(asked.seed)
    return [{key: draw(source) for key, draw in draws.items()} for _ in range(asked.samples)]


@dataclass
class _Asked(Settings):
    """How many samples.

    Attributes:
        samples: their number.
        seed: of the draws.
    """

    samples: Positive
    seed: Whole = 0


@dataclass
class _Range(Settings):
    """What a value is drawn from.

    Attributes:
        uniform: from low to high.
        log_uniform: the same, as the logarithm goes.
        integer: whole numbers, both ends included.
        choice: one of them.
    """

    uniform: tuple[Finite, Finite] | None = None
    log_uniform: tuple[Finite, Finite] | None = None
    integer: tuple[Whole, Whole] | None = None
    choice: list[Any] | None = None

    def __post_init__(self) -> None:
        given = {kind: span for kind, span in vars(self).items() if span is not None}
        if len(given) != 1:
            raise ValueError(f"must be one of {', '.join(vars(self))}")
        ((self._kind, self._span),) = given.items()
        if self._kind == "choice":
            if not self._span:
                raise ValueError("choice: must not be empty")
        elif self._span[0] > self._span[1]:
            low, high = self._span
            raise ValueError(f"must be [low, high], and {low:g} is above {high:g}")
        elif self._kind == "log_uniform" and self._span[0] <= 0:
            raise ValueError(f"log_uniform: must be above 0, not {self._span[0]!r}")

    def __call__(self, source: random.Random) -> Any:
        """Draw."""
        if self._kind == "choice":
            return source.choice(self._span)
        low, high = self._span
        if self._kind == "integer":
            return source.randint(low, high)
        if self._kind == "uniform":
            return _rounded(source.uniform(low, high))
        return _rounded(math.exp(source.uniform(math.log(low), math.log(high))))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _check_key(key: str, section: str) -> None:
    if key in ("name", "label"):
        raise UserError(f"{section}.{key}: follows from the cell; vary what is run instead")
    check_key(key, f"{section}.")


def _trial(base: Experiment, chosen: dict[str, Any]) -> Trial:
    values = base.to_dict()
    # a name and label that follow from the settings follow from those of the cell
    derived = dataclasses.replace(base, name=None, label=None)
    for key in ("name", "label"):
        if getattr(derived, key) == getattr(base, key):
            values[key] = None
    for key, value in chosen.items():
        if key in SECTIONS and isinstance(value, dict):  # as a whole: all else is the default
            value = {**dataclasses.asdict(getattr(Experiment(), key)), **value}
        put(values, key, copy.deepcopy(value))
    plain = parse_values(values)
    cell = {key: value for key, value in chosen.items() if key != "seed"}
    text = _text(cell, name_classes=values["label"] is not None)
    method = str(plain.label)
    label = f"{method} ({text})" if text else method
    experiment = dataclasses.replace(plain, label=label)
    return Trial(experiment, method, cell, _fingerprint(experiment))


def _text(cell: Mapping[str, Any], *, name_classes: bool) -> str:
    """`lr=0.1, momentum=0.9`: what tells this cell from the others."""
    parts: list[str] = []
    for key, value in cell.items():
        last = key.rpartition(".")[2]
        if last == "class_path":  # of a network, say: its name says enough
            parts.append(str(value).rpartition(".")[2])
        elif last == "init_args" and isinstance(value, Mapping):
            parts += [f"{name}={_word(item)}" for name, item in value.items()]
        elif isinstance(value, Mapping):
            path = value.get("class_path")
            if name_classes and path:
                parts.append(str(path).rpartition(".")[2])
            for name, item in (value.get("init_args") or {}).items():
                text = f"{name}={_word(item)}"
                if isinstance(item, Mapping):  # an optimizer that another one wraps
                    text = _text({name: item}, name_classes=name_classes)
                parts += [text] if text else []
        else:
            parts.append(f"{last}={_word(value)}")
    return ", ".join(parts)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _fingerprint(experiment: Experiment) -> str:
    """A hash of the experiment, but for where its data lie and what is written besides.

    It stays what it was: settings added since count where they are used, and so does a name.
    """
    values = experiment.to_dict()
    if dataclasses.replace(experiment, name=None).name == experiment.name:
        named = dataclasses.replace(experiment.data, root=None)
        values["name"] = dataclasses.replace(experiment, name=None, data=named).name
    for key in FREE_ON_RESUME:
        section, _, name = key.partition(".")
        values[section].pop(name)
    for key, default in ADDED.items():
        section, _, name = key.partition(".")
        holder = values[section] if name else values
        if holder[name or section] == default:
            holder.pop(name or section)
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
