"""Two processes and one reach the same accuracy within what seeds differ by, at the same batch.

Run as a program, this file trains all runs into a folder: so `accelerate launch` can start it.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from _ranks import leave
from surefoot_lab.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.records import read_run
from surefoot_lab.training import train

SEEDS = (0, 1, 2)
METHODS = {
    "SGD": OptimizerConfig("SGD", {"lr": 0.05, "momentum": 0.9}),
    "PAL": OptimizerConfig("PAL"),
    "LABPAL": OptimizerConfig("LABPAL"),
}


def _runs() -> Iterator[tuple[str, Experiment]]:
    """BatchNorm normalizes a share, dropout draws by process: here two processes are not one."""
    for method, optimizer in METHODS.items():
        for seed in SEEDS:
            experiment = Experiment(
                seed=seed,
                steps=90,  # some six epochs of the digits
                batch_size=64,
                data=DataConfig(validation=0.1, test=0.4),
                model=ModelConfig("lab_nets.NoisyNet"),
                optimizer=optimizer,
                train=TrainConfig(device="cpu", tensorboard=False, eval_every=1000),
            )
            yield f"{method}-{seed}", experiment


def _train_all(folder: Path) -> None:
    several = "RANK" in os.environ
    if several:  # once for all runs, which leave it as they find it
        dist.init_process_group("gloo")
    for name, experiment in _runs():
        train(experiment, folder / name, progress=False)
    if several:
        leave()


def _accuracies(folder: Path, method: str, processes: int) -> list[float]:
    found = []
    for seed in SEEDS:
        run = read_run(folder / f"{method}-{seed}")
        assert run.end is not None
        assert run.end["reason"] == "finished"
        assert run.environment["processes"] == processes
        found.append(run.evaluations[-1]["accuracy"])
    return found


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("noise")
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0"]
    path = os.pathsep.join([str(Path(__file__).parent), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-m", *launcher, __file__, str(folder / "two")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    _train_all(folder / "one")
    return folder / "one", folder / "two"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_reach_what_one_does(method: str, one_and_two: tuple[Path, Path]) -> None:
    alone = _accuracies(one_and_two[0], method, 1)
    shared = _accuracies(one_and_two[1], method, 2)
    variances = [statistics.variance(found) for found in (alone, shared)]
    # the standard error of the difference of two means, with a floor of what 719 test images tell
    error = math.sqrt((sum(variances) + 2 * 0.95 * 0.05 / 719) / len(SEEDS))
    assert abs(statistics.fmean(alone) - statistics.fmean(shared)) < 3 * error
    assert min(alone + shared) > 0.8


if __name__ == "__main__":
    _train_all(Path(sys.argv[1]))
