"""A sweep on a cluster of two nodes: both work, and each record says where its run was."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surefoot_lab.cli import main
from surefoot_lab.records import read_run
from surefoot_lab.sweep import run_trial, trials_of, write_table
from surefoot_lab.sweep.command import read_sweep

pytest.importorskip("ray")

SWEEP = """\
name: digits-two-nodes
steps: 60
batch_size: 64
model: {class_path: mlp, init_args: {widths: [8]}}
optimizer: {class_path: SGD}
train: {device: cpu, tensorboard: false, log_every: 20}
grid: {seed: [0, 1]}
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


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "table.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_sweep_uses_both_nodes_and_each_record_says_which(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    words = [str(file), "--out", str(tmp_path / "out"), "--address", cluster.address]
    assert main(["sweep", *words]) == 0
    assert "2 finished" in capsys.readouterr().out
    runs = [read_run(tmp_path / "out" / row["run"]) for row in _rows(tmp_path / "out")]
    nodes = {node.node_id for node in cluster.list_all_nodes()}
    assert len(nodes) == 2
    assert {run.node["ray"] for run in runs} == nodes
    assert len({run.node["host"] for run in runs}) == 1  # of this machine, both
    # where a run was decides nothing: the same table comes of running all of it here
    trials = trials_of(*read_sweep(str(file), []), str(file))
    for trial in trials:
        assert "ray" not in run_trial(trial, tmp_path / "here" / trial.fingerprint).node
    write_table(trials, tmp_path / "here")
    assert _rows(tmp_path / "here") == _rows(tmp_path / "out")
