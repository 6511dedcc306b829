"""Every table of docs/evidence.md by its command, at a size of seconds."""

from __future__ import annotations

import gzip
import importlib
import json
import runpy
import struct
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Command = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """Runs a benchmark's command in this process; its records."""
    threads, seen = torch.get_num_threads(), [*sys.path]
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), str(BENCHMARKS / "deepobs"), *seen])

    def run(script: str, *options: object) -> list[dict[str, Any]]:
        out = tmp_path / "results.jsonl"
        words = [script, "--out", str(out), *map(str, options)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return [json.loads(line) for line in out.read_text().splitlines()]

    yield run
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST's four files, CIFAR-10's folders and a text, all of noise."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = random.integers(0, 256, (256, 28, 28), dtype=np.uint8)
        labels = np.resize(np.arange(10, dtype=np.uint8), 256)
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">iiii", 2051, 256, 28, 28) + images.tobytes())
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">ii", 2049, 256) + labels.tobytes())
    for kind in ("a", "b"):
        for part in ("train", "test"):
            place = folder / part / kind
            place.mkdir(parents=True)
            for i in range(64):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.jpg")
    (folder / "input.txt").write_text("".join(random.choice(list("abcdefgh \n"), 60_000)))
    return folder


def test_quadratic_deep_is_the_published_problem(command: Command) -> None:
    """Adam at 1e-5 ended at 345.21052 in the published search, on other software."""
    command("deepobs/run.py", "--tasks", "quadratic_deep", "--seeds", 0, "--steps", 1)
    problems = importlib.import_module("problems")
    yardsticks = importlib.import_module("yardsticks")
    task = problems.QuadraticDeep()
    values = torch.linalg.eigvalsh(task.hessian)
    assert task.steps == 700
    assert int((values < 1.0).sum()) == 90
    assert int(((values > 30.0) & (values < 60.0)).sum()) == 10
    method = yardsticks.at_rate(torch.optim.Adam, 1e-5, None, 36)
    assert yardsticks.train(task, method, 0)["figure"] == pytest.approx(345.21052, abs=0.005)


@pytest.mark.parametrize(
    "task",
    ["fmnist_2c2d", pytest.param("fmnist_vae", marks=pytest.mark.slow), "char_rnn"],
)
def test_deepobs_problems_run(command: Command, data: Path, task: str) -> None:
    folders = [f"--{kind}={data}" for kind in ("fashion-mnist", "shakespeare")]
    options = ("--tasks", task, "--seeds", 0, "--steps", 2, "--methods", "AdamW", "linear")
    found = command("deepobs/run.py", *options, *folders)
    assert [r["attempts"] for r in found] == [1, 1, 36]
    assert all(np.isfinite(r["figure"]) for r in found)
    again = command("deepobs/run.py", *options, *folders)
    assert again == found  # what is there is not run again


def test_cifar_images_are_augmented_as_published(command: Command, data: Path) -> None:
    problems = importlib.import_module("problems")
    x, y = problems.cifar(data, "train")
    assert x.shape == (128, 3, 32, 32)
    assert y.sum() == 64
    changed = problems.augmented(x, torch.Generator().manual_seed(0))
    standard = problems.standardized(changed).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(128), rtol=0, atol=1e-4)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(128), rtol=0, atol=1e-3)
    task = problems.Cifar3c3d(data)
    net = task.model(0)
    net[0].weight.data.zero_()
    logits = net(standard.view(128, 3, 32, 32))
    penalty = sum(float(p.detach().square().sum()) for p in net.parameters() if p.dim() > 1)
    loss = task.loss(net, (standard.view(128, 3, 32, 32), y))
    expected = nn.functional.cross_entropy(logits, y) + 0.001 * penalty
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow
def test_nanogpt(command: Command, data: Path) -> None:
    words = ("measured Muon", "the recipe", "0.01, linear")
    options = ("--shakespeare", data, "--seeds", 0, "--steps", 2, "--methods", *words)
    found = {r["method"]: r for r in command("nanogpt/run.py", *options)}
    assert len(found) == 4
    assert found["AdamW 0.01, linear"]["attempts"] == 21
    # noise over ten characters: nothing better than the uniform distribution can be learnt
    assert all(2.2 < r["figure"] < 4.0 for r in found.values())


def test_mnist1d(command: Command) -> None:
    pytest.importorskip("mnist1d.data", reason="the package that makes the data is not installed")
    options = ("--tasks", "mlp", "cnn", "gru", "--seeds", 0, "--steps", 20, "--methods", "measured")
    found = command("mnist1d/run.py", *options)
    assert [r["task"] for r in found[::2]] == ["mnist1d_mlp", "mnist1d_cnn", "mnist1d_gru"]
    assert all(0.0 <= r["figure"] <= 100.0 for r in found)


def test_lightbench_takes_a_measured_optimizer(command: Command) -> None:
    pytest.importorskip("heavyball", reason="LightBench is not installed")
    pytest.importorskip("lightbench", reason="LightBench is not installed")
    options = ("--tasks", "quadratic_varying_scale", "--levels", "trivial", "--limit", 20)
    (found,) = command("lightbench/run.py", *options, "--methods", "measured AdamW")
    assert found["solved"]
    assert not found["error"]


def test_the_submission_trains_and_shows_averaged_weights(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a workload of our own: AlgoPerf's need jax and tensorflow, and a script runs those."""
    spec = types.ModuleType("algoperf.spec")
    spec.ForwardPassMode = types.SimpleNamespace(TRAIN=0, EVAL=1)  # type: ignore[attr-defined]
    package = types.ModuleType("algoperf")
    package.spec = spec  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "algoperf", package)
    monkeypatch.setitem(sys.modules, "algoperf.spec", spec)
    submission = runpy.run_path(str(BENCHMARKS / "algoperf" / "submission.py"))

    class Workload:
        def model_fn(self, params: nn.Module, **given: Any) -> tuple[torch.Tensor, None]:
            return params(given["augmented_and_preprocessed_input_batch"]["inputs"]), None

        def loss_fn(self, label_batch: Any, logits_batch: Any, mask_batch: Any) -> dict[str, Any]:
            losses = nn.functional.cross_entropy(logits_batch, label_batch, reduction="none")
            return {"summed": losses.sum(), "n_valid_examples": torch.tensor(len(losses))}

    torch.manual_seed(0)
    x = torch.randn(64, 8)
    batch = {"inputs": x, "targets": (x @ torch.randn(8, 3)).argmax(1)}
    model, workload = nn.Linear(8, 3), Workload()
    state = submission["init_optimizer_state"](workload, model, None, None, None)
    rest = {
        "current_params_types": None,
        "hyperparameters": None,
        "loss_type": None,
        "eval_results": [],
        "global_step": 0,
        "rng": None,
    }
    loss = nn.functional.cross_entropy(model(x), batch["targets"])
    for _ in range(60):
        got = submission["data_selection"](workload, iter([batch]), state, model, None, None, 0, 0)
        state, model, _ = submission["update_params"](
            workload, model, model_state=None, batch=got, optimizer_state=state, **rest
        )
    y = model.weight.detach().clone()
    with state["optimizer"].optimizer.averaged():
        average = model.weight.detach().clone()
    submission["prepare_for_eval"](workload, model, model_state=None, optimizer_state=state, **rest)
    assert torch.equal(model.weight, average)
    assert not torch.equal(average, y)
    assert nn.functional.cross_entropy(model(x), batch["targets"]) < 0.3 * loss
    other = submission["init_optimizer_state"](workload, nn.Linear(8, 3), None, None, None)
    other["optimizer"].load_state_dict(state["optimizer"].state_dict())
    submission["update_params"](
        workload, model, model_state=None, batch=batch, optimizer_state=state, **rest
    )
    assert not torch.equal(model.weight, average)


def test_the_page_shows_the_records(command: Command, tmp_path: Path) -> None:
    evidence = importlib.import_module("evidence")
    page = (BENCHMARKS.parent / "docs" / "evidence.md").read_text()
    records = evidence.read(BENCHMARKS)
    assert evidence.page(page, records) == page
    assert len(evidence.draw(evidence.by_task(records)).axes[0].lines) > 5
    mean, half = evidence.mean_and_half([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 2.48414), rel=1e-5)  # 4.302653 / √3
