"""Sweeps on Ray: a cluster of two nodes, which all these tests share, and this machine alone."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surefoot_lab.cli import main
from surefoot_lab.records import read_run
from surefoot_lab.sweep.cells import trials_of
from surefoot_lab.sweep.command import read_sweep, runs_of, write_table
from surefoot_lab.sweep.trial import is_done, run_trial

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

BASE = """\
name: digits-sweep
steps: {steps}
batch_size: 64
model: {{class_path: mlp, init_args: {{widths: [8]}}}}
optimizer: {{class_path: SGD, init_args: {{lr: 0.05}}}}
train: {{device: cpu, tensorboard: false, log_every: 4, checkpoint_every: 5{evaluate}}}
"""
NICENESS = "RAY_worker_niceness"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, as `ray start` makes them, of one core each."""
    from ray.cluster_utils import Cluster

    os.environ[NICENESS] = "0"  # as in a sweep on this machine: the runs are what it is for
    store = 80_000_000
    head = {"num_cpus": 1, "object_store_memory": store, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=store)
        yield cluster
    finally:
        cluster.shutdown()
        del os.environ[NICENESS]


def _sweep(
    folder: Path, sections: str, steps: int | None = 12, evaluate: str = ", eval_every: 6"
) -> list[str]:
    """The words of a sweep, whose runs go to `folder/out`."""
    base = BASE.format(steps=steps or "null", evaluate=evaluate)
    (folder / "sweep.yaml").write_text(base + sections)
    return [str(folder / "sweep.yaml"), "--out", str(folder / "out")]


def _table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _end(run: Path) -> tuple[str, str]:
    end = read_run(run).end
    assert end is not None
    return end["reason"], str(end["message"])


def test_a_sweep_uses_both_nodes_and_each_record_says_which(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _sweep(tmp_path, "grid: {seed: [0, 1]}\n", steps=60)
    assert main(["sweep", *words, "--address", cluster.address]) == 0
    assert "2 finished" in capsys.readouterr().out
    runs = [read_run(tmp_path / "out" / row["run"]) for row in _table(tmp_path / "out")]
    nodes = {node.node_id for node in cluster.list_all_nodes()}
    assert len(nodes) == 2
    assert {run.node["ray"] for run in runs} == nodes
    assert len({run.node["host"] for run in runs}) == 1  # of this machine, both
    # where a run was decides nothing: the same table comes of running all of it here
    trials = trials_of(*read_sweep(words[:1]))
    for trial in trials:
        assert "ray" not in run_trial(trial, tmp_path / "here" / trial.fingerprint).node
    write_table(runs_of(trials, tmp_path / "here"), tmp_path / "here")
    assert _table(tmp_path / "here") == _table(tmp_path / "out")


def test_early_stopping_gives_up_what_falls_behind(cluster: Any, tmp_path: Path) -> None:
    sections = (
        "epochs: 4\ngrid:\n  optimizer.init_args.lr: [0.3, 1e-7]\n"
        "early_stopping: {grace_epochs: 1, reduction_factor: 2}\n"
    )
    words = [*_sweep(tmp_path, sections, None, ""), "--address", cluster.address]
    assert main(["sweep", *words, "--concurrent", "1"]) == 0
    good, bad = _table(tmp_path / "out")
    assert (good["end"], bad["end"]) == ("finished", "stopped")
    assert int(bad["steps"]) < int(good["steps"]) // 2
    assert main(["sweep", *words, "--concurrent", "1"]) == 0
    assert _table(tmp_path / "out") == [good, bad]  # stopped is stopped, for good


def test_whatever_happens_to_trials_the_others_go_on(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One finishes, one raises, one diverges; and three find no place to write."""
    rates = "[0.1, -1.0, 1e30, 0.2, 0.3, 0.4]"
    words = _sweep(tmp_path, f"grid:\n  optimizer.init_args.lr: {rates}\n")
    folder = tmp_path / "out"
    trials = trials_of(*read_sweep(words[:1]))
    places = [folder / trial.fingerprint for trial in trials]
    for place in (places[3], places[5]):
        place.mkdir(parents=True)
    (places[3] / "checkpoint.tmp").symlink_to("/dev/full")  # a full disk, from the checkpoint on
    places[4].write_text("a file in the way")
    (places[5] / "record.jsonl").mkdir()  # and a directory
    assert main(["sweep", *words, "--address", cluster.address]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "6 runs, 0 of them done" in said.out
    assert "1 finished, 2 failed, 1 non_finite" in said.out
    rows = _table(folder)
    ends = [row["end"] for row in rows]
    rates_told = [row["optimizer.init_args.lr"] for row in rows]
    assert rates_told == ["0.1", "-1.0", "1e+30", "0.2", "0.3", "0.4"]
    assert "Invalid learning rate: -1" in said.out
    assert "Invalid learning rate: -1" in _end(places[1])[1]
    assert not (folder / ".ray").exists()
    assert [is_done(place) for place in places[:4]] == [True, False, True, False]
    whole = ["finished", "failed", "non_finite", "failed"]
    assert ends == [*whole, "missing", "unfinished"]
    assert [_end(place)[0] for place in places[:4]] == whole
    assert "No space left on device" in _end(places[3])[1]
    told = [line for line in said.out.splitlines() if "lr=" in line]
    by_rate = {line.split("lr=")[1].split(")")[0]: line for line in told}
    assert "No space left on device" in by_rate["0.2"]
    assert "File exists" in by_rate["0.3"]
    assert re.search("Is a directory|not permitted", by_rate["0.4"])


def test_a_sweep_killed_at_any_moment_gives_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 of all its processes at a moment drawn anew at every run of this test."""
    sections = "grid:\n  optimizer.init_args.lr: [0.01, 0.1]\n  seed: [0, 1]\n"
    words = _sweep(tmp_path, sections, steps=200, evaluate=", eval_every: 50")
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "surefoot_lab", "sweep", *words]
    killed = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    )
    while not list((tmp_path / "out").glob("*/checkpoint.pt")):
        assert killed.poll() is None
        time.sleep(0.05)
    time.sleep(random.Random(time.time_ns()).uniform(0.0, 3.0))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert main(["sweep", *words]) == 0
    assert "4 finished" in capsys.readouterr().out
    trials = trials_of(*read_sweep(words[:1]))
    for trial in trials:  # the same, in this process and without a break
        run_trial(trial, tmp_path / "whole" / trial.fingerprint)
    write_table(runs_of(trials, tmp_path / "whole"), tmp_path / "whole")
    assert _table(tmp_path / "whole") == _table(tmp_path / "out")
