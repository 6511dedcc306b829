"""LightBench: the share of its tasks that are solved in one attempt.

    python -m pip install lightbench && python benchmarks/lightbench/run.py [--full]

Tasks, conditions of a win and early stopping are the package's. Its search is left out: one trial, and what its sampler
draws (rates, betas) is not passed on. A task is tried at rising difficulty until the first that is not solved, as in its own
runner. A trial may take `--limit` seconds of CPU time; without --full 2 of them, and 60 otherwise.

The package asks for a GPU by name. Where there is none, its sources are read with "cpu" in place of "cuda".
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import inspect
import json
import random
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import optuna  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from yardsticks import told  # noqa: E402

import surefoot  # noqa: E402

LEVELS = ("trivial", "easy", "medium", "hard", "extreme", "nightmare")
STEPS = 100_000
OPTIMIZERS: dict[str, Callable[[Any, float], Any]] = {
    "measured AdamW": lambda params, decay: surefoot.MeasuredLR(
        torch.optim.AdamW(params, weight_decay=decay)
    ),
    "measured Muon": lambda params, decay: surefoot.MeasuredMuon(params, weight_decay=decay),
    "AdamW, its default": lambda params, decay: torch.optim.AdamW(params, weight_decay=decay),
}


class OutOfTime(Exception):
    """The trial's CPU seconds are spent."""


class Limited:
    """What LightBench asks of an optimizer: a step with a closure, and weights to be judged between `eval` and `train`."""

    def __init__(self, base: Any, limit: float) -> None:
        self._base, self._end = base, time.process_time() + limit
        self._judging = ExitStack()

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        if time.process_time() > self._end:
            raise OutOfTime
        return self._base.step(closure)

    def zero_grad(self) -> None:
        self._base.zero_grad()

    def eval(self) -> None:
        if hasattr(self._base, "averaged"):
            self._judging.enter_context(self._base.averaged())

    def train(self) -> None:
        self._judging.close()


class _OnCpu(importlib.machinery.SourceFileLoader):
    """Reads a module with the CPU in place of the GPU."""

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if not path.endswith(".py"):
            raise OSError  # nothing compiled is kept, nor read
        text = data.decode()
        text = text.replace('"cuda"', '"cpu"').replace(".cuda()", ".cpu()")
        return re.sub(r"torch\.cuda\.(synchronize|empty_cache)\(\)", "None", text).encode()


class _Finder:
    """Finds LightBench's modules for `_OnCpu`."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not name.startswith("lightbench."):
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        return found and importlib.util.spec_from_file_location(
            name, found.origin, loader=_OnCpu(name, found.origin)
        )


def modules() -> tuple[ModuleType, list[str]]:
    """The package's utilities and the names of its tasks."""
    if not torch.cuda.is_available():
        sys.meta_path.insert(0, _Finder())
    # its sampler, which needs gpytorch, botorch and the net, draws what is not used here
    helpers = ModuleType("heavyball.helpers")
    helpers.AutoSampler = lambda seed, search_space: optuna.samplers.RandomSampler(seed)
    sys.modules["heavyball.helpers"] = helpers
    from lightbench import run_all_benchmarks, utils

    source = Path(run_all_benchmarks.__file__).read_text()
    listed = re.search(r"benchmarks = \[(.*?)\]", source, re.DOTALL)
    assert listed
    if not torch.cuda.is_available():
        utils.cleanup = lambda: None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return utils, re.findall(r'"(\w+)\.py"', listed[1])


def attempt(
    utils: ModuleType, task: str, level: str, name: str, limit: float
) -> dict[str, Any] | None:
    """One trial; None where the task has no such level."""

    def optimizer(params: Any, weight_decay: float = 0.0) -> Limited:
        return Limited(OPTIMIZERS[name](list(params), weight_decay), limit)

    optimizer.__name__ = name
    module = importlib.import_module(f"lightbench.{task}")
    # its own runner hands every task a list, which those that want a string refuse
    one = inspect.signature(module.main).parameters["dtype"].annotation is str
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    told_by_it: list[str] = []
    utils.print = lambda *words: told_by_it.append(" ".join(map(str, words)))
    won = False
    plain = utils.Objective.win_condition

    def watched(self: Any, loss: Any = None) -> bool:
        nonlocal won
        won = plain(self, loss) or won
        return won

    utils.Objective.win_condition = watched
    begun = time.process_time()
    error = ""
    try:
        module.main(
            dtype="float32" if one else ["float32"],
            steps=STEPS,
            weight_decay=0,
            opt=[optimizer],
            trials=1,
            win_condition_multiplier=1.0,
            config=level,
        )
    except utils.SkipConfig:
        return None
    except OutOfTime:
        error = "out of time"
    except Exception as broken:
        error = f"{type(broken).__name__}: {broken}"[:200]
    finally:
        utils.Objective.win_condition = plain
    seconds = round(time.process_time() - begun, 2)
    return {"solved": won, "seconds": seconds, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="60 CPU seconds a trial")
    parser.add_argument("--limit", type=float, help="CPU seconds of a trial")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--levels", nargs="+", default=LEVELS)
    parser.add_argument("--methods", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    options = parser.parse_args()
    limit = options.limit or (60.0 if options.full else 2.0)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    utils, names = modules()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    kept = {(r["task"], r["level"], r["method"], r["limit"]): r for r in map(json.loads, lines)}
    for task in options.tasks or names:
        for method in options.methods:
            solved = True
            for level in options.levels:
                line = kept.get((task, level, method, limit))
                if line is None:
                    found = (
                        attempt(utils, task, level, method, limit) if solved else {"solved": False}
                    )
                    if found is None:
                        break
                    line = {
                        "task": task,
                        "level": level,
                        "method": method,
                        "limit": limit,
                        **found,
                        **told(),
                    }
                    with options.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(task, level, method, found, flush=True)
                solved = solved and line["solved"]


if __name__ == "__main__":
    main()
