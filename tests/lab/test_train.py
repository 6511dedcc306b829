"""The training loop: what it gives the optimizer, what it fills in, what it writes down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from surefoot_lab.config import (
    Experiment,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrainConfig,
)
from surefoot_lab.data.examples import Examples
from surefoot_lab.data.loader import Normalizer, TrainLoader
from surefoot_lab.errors import UserError
from surefoot_lab.parse import parse_words
from surefoot_lab.training import train
from surefoot_lab.training.assemble import assemble
from surefoot_lab.training.evaluate import evaluation_mode, score
from surefoot_lab.training.optimizers import Extent, build_optimizer, build_scheduler, fill_in
from surefoot_lab.training.stepping import Stepper, closure_mode, effective_lr

EXTENT = Extent(total_steps=25, steps_per_epoch=10, dataset_size=1285, batch_size=128)


def _experiment(optimizer: str = "SGD", init_args: dict[str, Any] | None = None, **settings: Any):
    if init_args is None:
        init_args = {"lr": 0.1} if optimizer == "SGD" else {}
    config = TrainConfig(tensorboard=False, log_every=4, eval_every=1000, device="cpu")
    model = ModelConfig("mlp", {"widths": [8]})
    given = {"steps": 10, "batch_size": 32, "model": model, "train": config, **settings}
    return Experiment(optimizer=OptimizerConfig(optimizer, init_args), **given)


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoint.pt", weights_only=True)["model"]


def _same(first: Any, second: Any) -> bool:
    return (
        all(torch.equal(first[key], second[key]) for key in first) and first.keys() == second.keys()
    )


# What optimizers and schedulers are given


def test_lengths_are_filled_in_where_the_constructor_takes_them() -> None:
    def takes_all(params: Any, total_steps: int, batch_size: int = 1, dataset_size: int = 1): ...

    def takes_some(params: Any, lr: float, batch_size: int = 1, **others: Any): ...

    everything = {"total_steps": 25, "dataset_size": 1285, "batch_size": 128}
    assert fill_in(takes_all, {}, EXTENT) == everything
    assert fill_in(takes_all, {"total_steps": None, "batch_size": 7}, EXTENT) == {
        "dataset_size": 1285
    }
    assert fill_in(takes_some, {"lr": "auto"}, EXTENT) == {"batch_size": 128}


def test_the_word_auto_is_replaced_in_lengths_only() -> None:
    words = ["total_steps", "T_max", "total_iters", "max_iter", "epochs", "steps_per_epoch", "mode"]
    assert fill_in(lambda: None, dict.fromkeys(words, "auto"), EXTENT) == {
        **{"total_steps": 25, "T_max": 25, "total_iters": 25, "max_iter": 25},
        **{"epochs": 3, "steps_per_epoch": 10},
    }


def test_one_cycle_gets_its_length_unless_it_has_one_in_epochs() -> None:
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    assert fill_in(one_cycle, {"max_lr": 1.0}, EXTENT) == {"total_steps": 25}
    given = {"max_lr": 1.0, "epochs": 2, "steps_per_epoch": 4}
    assert fill_in(one_cycle, given, EXTENT) == {}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, _ = build_scheduler(SchedulerConfig("OneCycleLR", given), optimizer, EXTENT)
    assert scheduler.total_steps == 8


def test_line_search_optimizers_get_the_model_others_its_trainable_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    pal, filled = build_optimizer(OptimizerConfig("PAL"), model, EXTENT)
    assert isinstance(pal, surefoot.PAL)
    assert filled == {"total_steps": 25}
    assert pal.total_steps == 25
    with pytest.warns(DeprecationWarning, match="step_multiplier"):  # an experiment of version 0.1
        former, _ = build_optimizer(OptimizerConfig("PAL", {"lr": 0.5}), model, EXTENT)
    assert isinstance(former, surefoot.PAL)
    assert former.step_multiplier == 0.5
    sgd, filled = build_optimizer(OptimizerConfig("torch.optim.SGD", {"lr": 0.1}), model, EXTENT)
    assert filled == {}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in sgd.param_groups[0]["params"]] == [id(p) for p in trainable]
    x = torch.randn(6, 2)
    pal.step(lambda: model(x).pow(2).mean())
    assert model[1].num_batches_tracked == 1  # given the model, probes leave its buffers alone


def test_the_closure_follows_from_the_optimizer_unless_it_is_said() -> None:
    weight = [torch.zeros(1, requires_grad=True)]
    assert closure_mode(surefoot.PAL(weight), "auto") == "forward"
    assert closure_mode(surefoot.LABPAL(weight), "auto") == "forward"
    assert closure_mode(torch.optim.SGD(weight, lr=0.1), "auto") == "none"
    assert closure_mode(torch.optim.LBFGS(weight), "auto") == "backward"
    for wanted in ("none", "forward", "backward"):
        assert closure_mode(torch.optim.SGD(weight, lr=0.1), wanted) == wanted


class _Recorder(torch.optim.SGD):
    """Records what its step is given; calls the closure as often as it is told."""

    calls = 1
    backwards_by_itself = False

    def step(self, closure: Callable[..., Any] | None = None) -> None:
        self.given = closure
        for _ in range(self.calls if closure else 0):
            with torch.enable_grad():
                loss = closure()
            if self.backwards_by_itself:
                loss.backward()
        self.grads = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        super().step()


def _stepper(mode: str, calls: int = 1, by_itself: bool = False):
    model = nn.Linear(3, 2)
    optimizer = _Recorder(model.parameters(), lr=0.1)
    optimizer.calls, optimizer.backwards_by_itself = calls, by_itself
    stepper = Stepper(model, nn.functional.cross_entropy, optimizer, mode, lambda x: x.backward())
    return model, optimizer, stepper


BATCH = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("mode", "calls", "by_itself", "cost"),
    [
        ("none", 1, False, (2, 2)),
        ("backward", 1, False, (2, 2)),
        ("backward", 3, False, (6, 6)),
        ("forward", 1, True, (2, 2)),
    ],
)
def test_each_closure_leads_to_the_same_gradient_and_is_counted(
    mode: str, calls: int, by_itself: bool, cost: tuple[int, int]
) -> None:
    model, optimizer, stepper = _stepper(mode, calls, by_itself)
    for _ in range(2):  # twice: gradients of the first step must not leak into the second
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(BATCH[0]), BATCH[1])
        expected = torch.autograd.grad(loss, list(model.parameters()))
        if mode != "forward":  # there, the optimizer clears the gradients itself
            model.weight.grad = torch.full_like(model.weight, 7.0)
        found = stepper.step(BATCH)
        assert found == loss.detach()
        assert not found.requires_grad
        for ours, theirs in zip(optimizer.grads, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert stepper.cost == cost
    assert (optimizer.given is None) == (mode == "none")


def test_salsas_closure_can_leave_the_backward_pass_out() -> None:
    _, optimizer, stepper = _stepper("backward")
    stepper.step(BATCH)
    optimizer.given(backwards=False)
    assert stepper.cost == (2, 1)


def test_the_cost_of_line_searches_is_theirs() -> None:
    model = nn.Linear(3, 2)
    optimizer = surefoot.PAL(model)
    stepper = Stepper(
        model, nn.functional.cross_entropy, optimizer, "forward", lambda x: x.backward()
    )
    for _ in range(3):
        stepper.step(BATCH)
    assert stepper.cost == (6, 3)


def test_the_effective_rate_is_the_one_applied() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "lr": rate} for weight, rate in zip(weights, (0.1, 0.2), strict=True)
    ]
    assert effective_lr(torch.optim.SGD(groups)) == [0.1, 0.2]
    prodigy = torch.optim.SGD(weights, lr=1.0)
    prodigy.param_groups[0]["d"] = 0.25
    assert effective_lr(prodigy) == 0.25
    pal = surefoot.PAL(weights, step_multiplier=2.0)
    pal.param_groups[0]["effective_lr"] = 0.5
    assert effective_lr(pal) == 0.5
    silent = torch.optim.SGD(weights, lr=1.0)
    del silent.param_groups[0]["lr"]
    assert effective_lr(silent) is None


# What a run does


@pytest.mark.parametrize("optimizer", ["PAL", "LABPAL", "SGD"])
def test_a_run_records_all_that_was_promised(tmp_path: Path, optimizer: str) -> None:
    config = TrainConfig(log_every=3, eval_every=4)
    experiment = _experiment(optimizer, train=config, seed=5)
    run = train(experiment, tmp_path / "run", progress=False)
    assert (run.name, run.label, run.seed) == ("digits-mlp", optimizer, 5)
    assert run.problems == []
    assert [line["step"] for line in run.steps] == [3, 6, 9, 10]
    found = [(line["step"], line["split"]) for line in run.evaluations]
    assert found == [
        *[(4, "validation"), (8, "validation"), (10, "validation")],
        (10, "test"),
    ]
    assert run.end is not None
    assert run.end["reason"] == "finished"
    per_epoch = 1150 // 32
    assert all(line["epoch"] == line["step"] / per_epoch for line in run.steps)
    last = run.steps[-1]
    assert last["backwards"] <= 10 <= last["forwards"]
    assert (last["status"] is None) == (optimizer == "SGD")
    assert last["seconds"] > 0
    assert run.experiment["steps"] == 10
    wanted = {} if optimizer == "SGD" else {"total_steps": 10}
    if optimizer == "LABPAL":
        wanted |= {"dataset_size": 1150, "batch_size": 32}
    assert run.experiment["filled_in"] == {"optimizer": wanted, "scheduler": {}}
    for key, value in wanted.items():
        assert run.experiment["optimizer"]["init_args"][key] == value
    assert run.environment["device"] == "cpu"
    if optimizer == "PAL":  # measured at every step, written down at every third
        assert [line["step"] for line in run.measurements] == [1, 4, 7, 10]
        assert {"status", "parabola", "effective_lr"} <= run.measurements[0].keys()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    again = parse_words([str(tmp_path / "run" / "experiment.yaml")]).experiment
    assert again == experiment


def test_the_recorded_loss_is_the_mean_since_the_last_line(tmp_path: Path) -> None:
    every = train(_experiment(train=TrainConfig(log_every=1)), tmp_path / "a", progress=False)
    some = train(_experiment(train=TrainConfig(log_every=4)), tmp_path / "b", progress=False)
    losses = [line["train_loss"] for line in every.steps]
    means = [sum(losses[:4]) / 4, sum(losses[4:8]) / 4, sum(losses[8:]) / 2]
    assert [line["train_loss"] for line in some.steps] == pytest.approx(means, rel=1e-12)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """Evaluating, logging and saving at every step leaves the trained weights as they are."""
    busy = TrainConfig(log_every=1, eval_every=1, checkpoint_every=1)
    quiet = TrainConfig(log_every=99, eval_every=99, checkpoint_every=99, tensorboard=False)
    model = ModelConfig("lab_nets.NoisyNet")
    for optimizer in ("SGD", "LABPAL"):
        for name, config in (("busy", busy), ("quiet", quiet)):
            experiment = _experiment(optimizer, model=model, steps=6, train=config)
            train(experiment, tmp_path / optimizer / name, progress=False)
        root = tmp_path / optimizer
        assert _same(_weights(root / "busy"), _weights(root / "quiet"))


def test_plain_training_is_what_a_loop_of_five_lines_does(tmp_path: Path) -> None:
    scheduler = SchedulerConfig("OneCycleLR", {"max_lr": 0.2, "cycle_momentum": False})
    experiment = _experiment("SGD", {"lr": 0.2, "momentum": 0.9}, scheduler=scheduler, seed=3)
    run = train(experiment, tmp_path, progress=False)

    parts = assemble(experiment)
    model, loader = parts.model, parts.loader
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=10, cycle_momentum=False
    )
    rates = []
    for _ in range(10):
        images, labels = loader.next_batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert _same(_weights(tmp_path), model.state_dict())
    assert [line["effective_lr"] for line in run.steps] == [rates[3], rates[7], rates[9]]


def test_all_methods_start_from_the_same_weights_and_see_the_same_batches() -> None:
    sgd, pal = assemble(_experiment("SGD")), assemble(_experiment("PAL"))
    assert _same(sgd.model.state_dict(), pal.model.state_dict())
    assert torch.equal(sgd.loader.next_batch()[0], pal.loader.next_batch()[0])
    other = assemble(_experiment("SGD", seed=1))
    assert not _same(sgd.model.state_dict(), other.model.state_dict())
    assert not torch.equal(sgd.loader.next_batch()[0], other.loader.next_batch()[0])
    assert torch.equal(sgd.data.test.inputs, other.data.test.inputs)


def test_the_length_comes_from_steps_or_from_epochs() -> None:
    assert assemble(_experiment(steps=None, epochs=2)).extent.total_steps == 2 * (1150 // 32)
    assert assemble(_experiment(steps=None, epochs=0.5)).extent.total_steps == round(0.5 * 35)
    assert assemble(_experiment(steps=7, epochs=2)).extent.total_steps == 7


def test_a_plateau_scheduler_is_given_the_validation_loss(tmp_path: Path) -> None:
    never_good_enough = {"patience": 0, "threshold": 1e9, "threshold_mode": "abs"}
    scheduler = SchedulerConfig("ReduceLROnPlateau", never_good_enough)
    config = TrainConfig(log_every=1, eval_every=2, tensorboard=False)
    experiment = _experiment(scheduler=scheduler, steps=6, train=config)
    run = train(experiment, tmp_path, progress=False)
    rates = [line["effective_lr"] for line in run.steps]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_bfloat16_runs_and_keeps_float32_weights(tmp_path: Path) -> None:
    config = TrainConfig(precision="bf16", tensorboard=False, log_every=1)
    run = train(_experiment("PAL", train=config, steps=3), tmp_path, progress=False)
    config = TrainConfig(tensorboard=False, log_every=1)
    exact = train(_experiment("PAL", train=config, steps=3), tmp_path / "exact", progress=False)
    assert all(weight.dtype == torch.float32 for weight in _weights(tmp_path).values())
    assert run.steps[0]["train_loss"] != exact.steps[0]["train_loss"]
    assert run.steps[0]["train_loss"] == pytest.approx(exact.steps[0]["train_loss"], rel=0.02)


def test_a_plain_run_ends_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    run = train(_experiment("SGD", {"lr": 1e30}, steps=50), tmp_path, progress=False)
    assert run.end is not None
    assert run.end["reason"] == "non_finite"
    assert run.end["step"] == run.steps[-1]["step"] < 50
    assert run.steps[-1]["train_loss"] is None
    assert run.steps[-1]["non_finite"] is True
    assert "not finite" in run.end["message"]


@pytest.mark.parametrize("optimizer", ["PAL", "MeasuredAdamW"])
@pytest.mark.filterwarnings("ignore:the loss or its gradient was not finite")
def test_a_short_run_that_never_had_a_finite_loss_is_not_finished(
    optimizer: str, tmp_path: Path
) -> None:
    """Too short for the patience that a line search gets."""
    loss = LossConfig("lab_nets.not_a_number")
    run = train(_experiment(optimizer, loss=loss), tmp_path, progress=False)
    assert run.end is not None
    assert (run.end["reason"], run.end["step"]) == ("non_finite", 10)


# Evaluation


def _bits(count: int = 40) -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.randint(0, 3, (count,), generator=generator))


def test_the_score_is_the_mean_over_images_whatever_the_batch_size() -> None:
    images = _bits(11)
    normalizer = Normalizer(images.inputs, torch.device("cpu"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    outputs = model(normalizer(images.inputs)).double()
    chosen = outputs.log_softmax(dim=1)[torch.arange(11), images.labels]
    right = sum(int(o.argmax()) == int(y) for o, y in zip(outputs, images.labels, strict=True))
    for batch_size in (1, 4, 11, 500):
        found = score(model, images, normalizer, batch_size)
        assert found.loss == pytest.approx(-chosen.mean().item(), rel=1e-5)
        assert found.accuracy == right / 11


class _Averaging(torch.optim.SGD):
    """Evaluates zero weights, as a schedule-free optimizer evaluates averaged ones."""

    def eval(self) -> None:
        self.kept = [p.detach().clone() for p in self.param_groups[0]["params"]]
        for p in self.param_groups[0]["params"]:
            p.data.zero_()

    def train(self) -> None:
        for p, kept in zip(self.param_groups[0]["params"], self.kept, strict=True):
            p.data.copy_(kept)


def test_averaging_optimizers_are_switched_and_batchnorm_is_measured_anew_on_a_copy() -> None:
    images = _bits()
    normalizer = Normalizer(images.inputs, torch.device("cpu"))
    loader = TrainLoader(images, normalizer, batch_size=8, seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    optimizer = _Averaging(model.parameters(), lr=0.1)
    for _ in range(3):
        model(loader.next_batch()[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    place, random_state = loader.state_dict(), torch.get_rng_state()
    with evaluation_mode(model, optimizer, loader):
        assert not any(module.training for module in model.modules())
        assert torch.equal(model[1].weight, torch.zeros(3, 16))
        # with zero weights and zero bias, every output is zero: so are its statistics
        assert torch.equal(model[2].running_mean, torch.zeros(3))
        assert torch.equal(model[2].running_var, torch.zeros(3))
    assert all(module.training for module in model.modules())
    assert _same(before, model.state_dict())
    assert model[2].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random_state)
    assert loader.state_dict()["next"] == place["next"]
    assert torch.equal(loader.state_dict()["generator"], place["generator"])


def test_other_optimizers_are_evaluated_with_the_statistics_of_training() -> None:
    images = _bits()
    normalizer = Normalizer(images.inputs, torch.device("cpu"))
    loader = TrainLoader(images, normalizer, batch_size=8, seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    model(loader.next_batch()[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with evaluation_mode(model, torch.optim.SGD(model.parameters(), lr=0.1), loader):
        assert not model.training
        assert _same(before, model.state_dict())
    assert model.training


def test_training_goes_on_after_an_evaluation_that_failed() -> None:
    images = _bits()
    loader = TrainLoader(
        images, Normalizer(images.inputs, torch.device("cpu")), batch_size=8, seed=0
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    optimizer = _Averaging(model.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(KeyError), evaluation_mode(model, optimizer, loader):
        raise KeyError
    assert model.training
    assert _same(before, model.state_dict())


# What is refused before anything is written


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (_experiment("PAL", {"step_multiplier": -1.0}), r"PAL: step_multiplier must be"),
        (_experiment("SGD", {"lr": -1.0}), r"SGD: Invalid learning rate: -1\.0"),
        (_experiment("SGD", {"lr": "fast"}), r"optimizer: SGD: "),
        (_experiment("SGD", {"momentun": 0.9}), r"momentun: .*did you mean 'momentum'\?"),
        (_experiment("SDG"), r"no 'SDG' in surefoot or torch\.optim; did you mean 'SGD'\?"),
        (_experiment("no.such.Optimizer"), r"cannot import no\.such"),
        (_experiment("torch.nn.Linear", {"out_features": 2}), r"is no torch\.optim\.Optimizer"),
        (_experiment(scheduler=SchedulerConfig("OneCycleLR")), r"init_args\.max_lr: .*needs it"),
        (_experiment(scheduler=SchedulerConfig(None, {"max_lr": 1})), r"without scheduler\.class"),
        (_experiment(batch_size=5000), r"batch_size: 5000 is more than the 1150 training"),
        (
            _experiment(model=ModelConfig("torchvision.models.resnet18")),
            r"does not take images of \(1, 8, 8\)",
        ),
        (
            _experiment(model=ModelConfig("mlp", {"num_classes": 3})),
            r"gives \(2, 3\) for two examples; \(2, 10\) is needed",
        ),
    ],
)
def test_unusable_experiments_leave_nothing_behind(
    tmp_path: Path, experiment: Experiment, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(experiment, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    first = train(_experiment(), tmp_path, progress=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        train(_experiment(seed=1), tmp_path, progress=False)
    assert (tmp_path / "record.jsonl").read_bytes()
    second = train(_experiment(seed=1), tmp_path, overwrite=True, progress=False)
    assert (first.seed, second.seed) == (0, 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len((tmp_path / "record.jsonl").read_text().splitlines()) == 1 + 3 + 2 + 1
    with pytest.raises(UserError, match="is a file"):
        train(_experiment(), tmp_path / "notes.txt", progress=False)
