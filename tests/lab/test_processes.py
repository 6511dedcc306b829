"""Two processes and one train the same network; what goes wrong in one ends the run of all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from _ranks import leave, spawn
from surefoot_lab.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig
from surefoot_lab.data.examples import Examples
from surefoot_lab.data.loader import Normalizer
from surefoot_lab.errors import UserError
from surefoot_lab.parse import to_yaml
from surefoot_lab.records import RunRecord, read_run
from surefoot_lab.training import train
from surefoot_lab.training.evaluate import score
from surefoot_lab.training.processes import Team
from surefoot_lab.training.stepping import Stepper

METHODS: dict[str, OptimizerConfig] = {
    "SGD": OptimizerConfig("SGD", {"lr": 0.05, "momentum": 0.9}),
    "PAL": OptimizerConfig("PAL"),
    "LABPAL": OptimizerConfig("LABPAL", {"measuring_batches": 4, "reuse": 5, "burn_in": 3}),
    "LBFGS": OptimizerConfig("LBFGS", {"lr": 0.1, "max_iter": 3, "line_search_fn": "strong_wolfe"}),
}

# The same images, summed in another order: rounding grows with the steps, and no more than that.
# L-BFGS divides by differences of gradients and is soon elsewhere: only its first steps compare.
ROUNDING = 1e-3
COMPARABLE = {"SGD": 12, "PAL": 12, "LABPAL": 12, "LBFGS": 4}


def _experiment(method: str, *, steps: int = 12, accumulate: int = 1, **train: Any) -> Experiment:
    """No BatchNorm and no dropout: nothing that depends on which rank sees which image."""
    config = {"tensorboard": False, "log_every": 1, "eval_every": 6, "checkpoint_every": 5}
    return Experiment(
        steps=steps,
        batch_size=48,
        data=DataConfig(validation=0.25, crop=1),
        model=ModelConfig("mlp", {"widths": [16]}),
        optimizer=METHODS[method],
        train=TrainConfig(device="cpu", accumulate=accumulate, **{**config, **train}),
    )


PIECES = {"whole": 1, "in-pieces": 3}  # of a rank's share of a batch


def _worker(rank: int, folder: str) -> None:
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    # once for all runs, which leave it as they find it; a file, as a port may be another test's
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    for name, accumulate in PIECES.items():
        _runs_of_a_rank(rank, Path(folder, name), accumulate)
    leave()


def _runs_of_a_rank(rank: int, folder: Path, accumulate: int) -> None:
    trace: list[Any] = []
    step = Stepper.step

    def traced(self: Stepper, batch: Any) -> Any:
        loss = step(self, batch)
        outcome = getattr(self.optimizer, "last", None)
        if outcome is not None:
            trace.append((str(outcome.status), outcome.t, outcome.length))
        return loss

    Stepper.step = traced  # type: ignore[method-assign]
    for method in METHODS:
        experiment = _experiment(method, accumulate=accumulate)
        train(experiment, folder / method, progress=False)
    Stepper.step = step  # type: ignore[method-assign]
    experiment = _experiment("PAL", accumulate=accumulate)
    _break_off(experiment, folder / "halves")
    for run in ("halves", "from-one"):
        train(experiment, folder / run, resume=True, progress=False)
    Path(folder, f"trace{rank}.json").write_text(json.dumps(trace))


def _break_off(experiment: Experiment, run: Path) -> None:
    """Train until the eighth step raises."""
    step, calls = Stepper.step, iter(range(7))

    def seven(self: Stepper, batch: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError("a step that raises")
        return step(self, batch)

    Stepper.step = seven  # type: ignore[method-assign]
    try:
        with pytest.raises(RuntimeError, match="a step that raises"):
            train(experiment, run, progress=False)
    finally:
        Stepper.step = step  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, which are started once."""
    folder = tmp_path_factory.mktemp("two")
    for name, accumulate in PIECES.items():
        _break_off(_experiment("PAL", accumulate=accumulate), folder / name / "from-one")
    spawn(_worker, (str(folder),))
    return folder


@pytest.fixture(scope="module", params=PIECES)
def two(request: pytest.FixtureRequest, pair: Path) -> Path:
    """Those with the batch in one piece or in several."""
    return pair / str(request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs in one process."""
    folder = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for method in METHODS:
        train(_experiment(method), folder / method, progress=False)
    torch.set_num_threads(threads)
    return folder


def _assert_same_steps(ours: RunRecord, theirs: RunRecord, method: str) -> None:
    assert [line["step"] for line in ours.steps] == list(range(1, 13))
    for line, other in list(zip(ours.steps, theirs.steps, strict=True))[: COMPARABLE[method]]:
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=ROUNDING)
        assert (line["forwards"], line["backwards"]) == (other["forwards"], other["backwards"])
        assert line["status"] == other["status"]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one_does(method: str, one: Path, two: Path) -> None:
    alone, shared = read_run(one / method), read_run(two / method)
    assert shared.environment["processes"] == 2
    assert shared.problems == []
    _assert_same_steps(shared, alone, method)
    if COMPARABLE[method] == 12:
        for ours, theirs in zip(shared.evaluations, alone.evaluations, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=2 * ROUNDING)
            assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.01)


def test_line_searches_take_identical_steps_on_both_ranks(two: Path) -> None:
    traces = [json.loads((two / f"trace{rank}.json").read_text()) for rank in (0, 1)]
    assert traces[0] == traces[1]
    assert len(traces[0]) == 24  # 12 of PAL, 12 of LABPAL
    assert sum(length > 0.0 for _, _, length in traces[0]) >= 16


def test_a_run_of_two_that_broke_off_is_continued_exactly(two: Path) -> None:
    whole, halves = read_run(two / "PAL"), read_run(two / "halves")

    def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    text = (two / "halves" / "record.jsonl").read_text()
    failed = [line for line in map(json.loads, text.splitlines()) if line.get("reason") == "failed"]
    assert [(line["step"], line["message"]) for line in failed] == [
        (7, "RuntimeError: a step that raises")
    ]
    assert without_times(halves.steps) == without_times(whole.steps)
    assert without_times(halves.evaluations) == without_times(whole.evaluations)
    assert halves.end == whole.end


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_in_pieces_gives_the_same_steps_at_the_same_cost(
    method: str, one: Path, tmp_path: Path
) -> None:
    pieces = train(_experiment(method, accumulate=4), tmp_path, progress=False)
    _assert_same_steps(pieces, read_run(one / method), method)


def test_what_one_process_began_two_go_on_with(one: Path, two: Path) -> None:
    shared, alone = read_run(two / "from-one"), read_run(one / "PAL")
    assert shared.environment["processes"] == 2
    assert shared.end == alone.end
    for ours, theirs in zip(shared.steps, alone.steps, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)


def test_every_image_counts_once_in_stretches_of_any_number_of_processes() -> None:
    for count in (0, 1, 7, 360):
        for size in (1, 2, 3, 8):
            places = [
                i for rank in range(size) for i in range(count)[Team(size, rank).slice_of(count)]
            ]
            assert places == list(range(count))


def test_shares_are_the_batch_each_row_once_in_order() -> None:
    batch = (torch.arange(24), torch.arange(24) * 10)
    pieces = [piece for rank in range(2) for piece in Team(2, rank).share(batch, 3)]
    assert torch.equal(torch.cat([rows for rows, _ in pieces]), batch[0])
    assert torch.equal(torch.cat([labels for _, labels in pieces]), batch[1])


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size: 48 cannot be cut into 5 equal parts"):
        train(_experiment("SGD", accumulate=5), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_sharded_parameters_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP: it cuts parameters into pieces"):
        train(_experiment("PAL"), tmp_path, progress=False)


def _start(launcher: list[str], *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "surefoot_lab", "train", *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _rank_process(parent: int, rank: int) -> int:
    """The process id of one rank below its launcher, by the environment it was given."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            own = place.joinpath("environ").read_bytes().split(b"\0")
            status = place.joinpath("stat").read_text()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and f"RANK={rank}".encode() in own:
            return int(place.name)
    raise LookupError(f"no rank {rank} below {parent}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank through /proc")
@pytest.mark.slow
def test_a_rank_killed_in_the_middle_ends_the_run_and_resume_continues_it(tmp_path: Path) -> None:
    experiment = _experiment("PAL", steps=400, checkpoint_every=20, eval_every=100)
    (tmp_path / "experiment.yaml").write_text(to_yaml(experiment))
    run = tmp_path / "run"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = (str(tmp_path / "experiment.yaml"), "--out", str(run))
    launcher = _start(torchrun, *words)
    while not (run / "checkpoint.pt").exists():
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.05)
    os.kill(_rank_process(launcher.pid, 1), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode != 0, errors
    broken = read_run(run)
    assert broken.end is None or broken.end["reason"] == "failed"
    at = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert 20 <= at < 400
    done = train(experiment, run, resume=True, progress=False)  # now in one process
    assert done.end is not None
    assert (done.end["reason"], done.end["step"]) == ("finished", 400)
    assert [line["step"] for line in done.steps] == list(range(1, 401))
    assert done.environment["processes"] == 1


def test_an_evaluation_over_uneven_stretches_is_exact() -> None:
    """Two stretches of 7 images, of 3 and 4: sums by hand against the score of all at once."""
    images = Examples(torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8), torch.arange(7) % 3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    normalizer = Normalizer(images.inputs, torch.device("cpu"))
    whole = score(network, images, normalizer, 2)
    seen: list[list[float]] = []

    class Half(Team):
        def sum(self, values: Sequence[float]) -> list[float]:
            seen.append(list(values))
            return super().sum(values) if self.size == 1 else list(values)

    for rank in (0, 1):
        score(network, images, normalizer, 2, team=Half(2, rank))
    sums = [sum(column) for column in zip(*seen, strict=True)]
    assert sums[0] / 7 == pytest.approx(whole.loss)
    assert sums[1] / 7 == pytest.approx(whole.accuracy)
