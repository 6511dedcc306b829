"""From `grid:` and `random:` to the runs they stand for."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surefoot_lab.config import Experiment, SweepConfig, UserError, fields_of
from surefoot_lab.parse import check_key, parse_values, put
from surefoot_lab.train.log import ADDED, FREE_ON_RESUME
from surefoot_lab.values import number, plain, shown

SECTIONS = tuple(dict.fromkeys(s.key.partition(".")[0] for s in fields_of() if "." in s.key))
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
    count = section.get("samples")
    if not isinstance(count, int) or not _is_whole(count) or count < 1:
        raise UserError(f"random.samples: must be a whole number of at least 1, not {shown(count)}")
    if not _is_whole(section.get("seed", 0)):
        raise UserError(f"random.seed: must be a whole number, not {shown(section['seed'])}")
    for key in ranges:
        _check_key(key, "random")
    source = random.Random(section.get("seed", 0))
    draws = {key: _sampler(key, what) for key, what in ranges.items()}
    return [{key: draw(source) for key, draw in draws.items()} for _ in range(count)]


def _sampler(key: str, what: Any) -> Callable[[random.Random], Any]:
    kinds = ("uniform", "log_uniform", "integer", "choice")
    if not isinstance(what, Mapping) or len(what) != 1 or next(iter(what)) not in kinds:
        raise UserError(f"random.{key}: must be one of {', '.join(kinds)}, not {shown(what)}")
    kind, span = next(iter(what.items()))
    if kind == "choice" and isinstance(span, list) and span:
        return lambda source: source.choice(span)
    if isinstance(span, list):
        span = [number(end) for end in span]
    fits = _is_whole if kind == "integer" else _is_finite
    if not (isinstance(span, list) and len(span) == 2 and all(map(fits, span))):
        wanted = "two whole numbers" if kind == "integer" else "two numbers"
        raise UserError(f"random.{key}.{kind}: must be [low, high], not {shown(span)} ({wanted})")
    low, high = span
    if low > high:
        raise UserError(f"random.{key}.{kind}: must be [low, high], and {low} is above {high}")
    if kind == "integer":
        return lambda source: source.randint(int(low), int(high))
    if kind == "uniform":
        return lambda source: _rounded(source.uniform(low, high))
    if low <= 0:
        raise UserError(f"random.{key}.log_uniform: must be above 0, not {low!r}")
    return lambda source: _rounded(math.exp(source.uniform(math.log(low), math.log(high))))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


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
        _put(values, key, copy.deepcopy(value))
    plain = parse_values(values)
    cell = {key: value for key, value in chosen.items() if key != "seed"}
    text = _text(cell, name_classes=values["label"] is not None)
    method = str(plain.label)
    label = f"{method} ({text})" if text else method
    experiment = dataclasses.replace(plain, label=label)
    return Trial(experiment, method, cell, _fingerprint(experiment))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a section given as a whole replaces all its settings but the defaults."""
    if key in SECTIONS and isinstance(value, dict):
        value = {**dataclasses.asdict(getattr(Experiment(), key)), **value}
    put(values, key, value)


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
