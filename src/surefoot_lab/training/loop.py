"""The training loop: step, write down, evaluate, save; and the same again after a crash."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from surefoot_lab.config import Experiment
from surefoot_lab.errors import of_the_system
from surefoot_lab.parse import to_yaml
from surefoot_lab.records import RECORDED, TRACEBACK_NAME, RunRecord, describe_environment, read_run
from surefoot_lab.records.lock import alone
from surefoot_lab.signals import answered
from surefoot_lab.text_files import write_whole
from surefoot_lab.training.assemble import SEED_STRIDE, Parts, assemble, seed_everything
from surefoot_lab.training.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from surefoot_lab.training.evaluate import evaluation_mode, score
from surefoot_lab.training.log import (
    EXPERIMENT_NAME,
    MESSAGE_LENGTH,
    RunLog,
    SilentLog,
    check_run_dir,
    check_same_experiment,
    clear_run,
)
from surefoot_lab.training.optimizers import check_reached
from surefoot_lab.training.processes import Team, form_team
from surefoot_lab.training.progress import ProgressDisplay
from surefoot_lab.training.stepping import effective_lr, measures

# A line search rejects a non-finite loss and may recover; after so many log lines it did not.
PATIENCE_LINES = 10

# What a run itself keeps in a checkpoint.
SAVED = ("step", "seconds", "loss_sum", "loss_count", "last_measurement", "bad_lines")

Observer: TypeAlias = Callable[[dict[str, Any]], None]


def train(
    experiment: Experiment,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    observe: Observer | None = None,
    sweep: dict[str, Any] | None = None,
) -> RunRecord:
    """Train one network and write the run to `run_dir`.

    Started by `torchrun` or `accelerate launch`, all processes call this alike and share the work.

    Args:
        experiment: what to train, on what, how.
        run_dir: the run's directory; created when everything in the experiment has proved usable.
        resume: go on from the directory's checkpoint, to the bit as if never stopped (on the
            same machine and versions).
        overwrite: replace a run that is already in the directory.
        progress: show a bar on a terminal, or a line per evaluation elsewhere.
        observe: called after every validation with its step, epoch, loss and accuracy.
        sweep: `method` and `cell` of a sweep's trial, for the record. Each setting of the cell is
            looked for in what was built.

    Returns:
        The run as recorded; `end["reason"]` is `finished`, `non_finite` or `interrupted`;
        an error other than a UserError is raised after it was recorded as `failed`.

    Raises:
        UserError: something in the experiment or the directory cannot be used, or the disk does
            not take (or give) a file any more.

    Example:
        >>> import tempfile
        >>> from surefoot_lab.config import Experiment
        >>> run = train(Experiment(steps=2), tempfile.mkdtemp(), progress=False)
        >>> run.end["reason"]
        'finished'
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment must be an Experiment, got {type(experiment).__name__}")
    if resume and overwrite:
        raise ValueError("resume goes on with the run that overwrite replaces: choose one")
    path = Path(run_dir)
    joined = form_team(experiment.train)
    team = joined[1]
    try:
        with of_the_system(path), ExitStack() as held:
            team.lead(lambda: check_run_dir(path, resume=resume, overwrite=overwrite))
            said: list[str] = []
            with _heard(said.append):
                parts = assemble(experiment, joined)
            check_reached(parts.optimizer, (sweep or {}).get("cell", {}))
            state = team.lead(lambda: _enter(held, path, parts, resume=resume, overwrite=overwrite))
            if isinstance(state, RunRecord):
                return state
            run = _Run(parts, path, observe, sweep)
            run.carry_out(state, said, resumed=resume, progress=progress)
            return team.lead(lambda: read_run(path))
    finally:
        team.close()


def _enter(
    held: ExitStack, path: Path, parts: Parts, *, resume: bool, overwrite: bool
) -> RunRecord | dict[str, Any] | None:
    """Keep other processes out of the directory (what they did until now counts), and ready it.

    Returns:
        The record of a run that needs no more training, the checkpoint to go on from, or None.

    Raises:
        UserError: what lies there cannot be used, or is another run's.
    """
    path.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone(path, patience_s=0.0))
    check_run_dir(path, resume=resume, overwrite=overwrite)
    state = None
    if resume:
        record = read_run(path)
        check_same_experiment(record.experiment, parts.resolved, "the run to resume")
        if record.end is not None and record.end["reason"] == "finished":
            return record
        if (state := load_checkpoint(path)) is not None:
            what = f"{path / CHECKPOINT_NAME}: is another run's: it"
            check_same_experiment(state.get("experiment", {}), parts.resolved, what)
    elif overwrite:
        clear_run(path)
    (path / TRACEBACK_NAME).unlink(missing_ok=True)  # of an attempt before this one
    if not resume:
        write_whole(path / EXPERIMENT_NAME, to_yaml(parts.experiment))
    return state


class _Run:
    """A run under way: its place, its clock, and the losses not yet written down."""

    def __init__(
        self, parts: Parts, run_dir: Path, observe: Observer | None, sweep: dict[str, Any] | None
    ) -> None:
        self.parts = parts
        self.team = parts.team
        self.log: RunLog | SilentLog = SilentLog()
        self.run_dir = run_dir
        self.observe = observe
        self.sweep = sweep
        self.step = 0
        self.seconds = 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=parts.device)
        self.loss_count = 0
        self.last_measurement = -math.inf
        self.bad_lines = 0
        self.warned: set[str] = set()
        self.searches = measures(parts.optimizer)
        config = parts.experiment.train
        self.log_every = config.log_every
        self.eval_every = config.eval_every or parts.extent.steps_per_epoch
        self.save_every = config.checkpoint_every or parts.extent.steps_per_epoch

    def carry_out(
        self, state: dict[str, Any] | None, said: list[str], *, resumed: bool, progress: bool
    ) -> None:
        """Train to the run's end; whatever goes wrong stands in the record.

        What was `said` while the parts were built does, too.
        """
        experiment, done = self.parts.experiment, state["step"] if state else 0
        label, total = str(experiment.label), self.parts.extent.total_steps
        wanted = progress and self.team.leads
        display = ProgressDisplay(label, total, wanted=wanted, done=done)
        if self.team.leads:
            written = {"tensorboard": experiment.train.tensorboard}
            purge_step = done + 1 if resumed else None
            self.log = RunLog(self.run_dir, display, purge_step=purge_step, **written)
        try:
            self._open(state, resumed=resumed)
            for message in said:
                self.warn(message)
            with display, _interruptible(self.team) as stop, _heard(self.warn):
                self.execute(stop)
        except Exception as error:
            self.log.fail(self.step, error)
            setattr(error, RECORDED, True)
            raise
        finally:
            self.log.close()

    def _open(self, state: dict[str, Any] | None, *, resumed: bool) -> None:
        """Write the first line, or go to the saved place and say so."""
        if state is not None:
            self._load(state)
        if not self.team.leads:
            return
        environment = describe_environment(str(self.parts.device))
        environment["processes"] = self.team.size
        written = read_run(self.run_dir) if resumed else None
        if written is not None:
            self.warned = {w["message"] for w in written.warnings if w["step"] < self.step}
        if written is None or not written.experiment:
            self.log.record.start(self.parts.resolved, environment, self.sweep)
        if resumed:
            self.log.record.resume(self.step, environment)
        self.log.open_board()

    def execute(self, stop: threading.Event) -> None:
        """Train to the end, to a loss that is not finite, or until asked to stop."""
        total = self.parts.extent.total_steps
        try:
            while self.step < total and not self.team.any(stop.is_set()):
                self._advance()
                last = self.step == total
                if (last or self.step % self.log_every == 0) and not self._write_step():
                    return
                if last or self.step % self.eval_every == 0:
                    self._evaluate("validation")
                if last:
                    self._evaluate("test")
                if last or self.step % self.save_every == 0:
                    self._save()
        except KeyboardInterrupt:  # the second one, in the middle of something: no checkpoint
            self.log.record.end(self.step, "interrupted", "stopped in the middle of a step")
            return
        if self.step < total:
            self._save()
            self.log.record.end(self.step, "interrupted", "go on with --resume")
        else:
            self.log.record.end(self.step, "finished")

    def _advance(self) -> None:
        """One step of optimizer and scheduler; what it measured is written down now and then."""
        parts = self.parts
        started = time.perf_counter()
        loss = parts.stepper.step(parts.loader.next_batch())
        self.loss_sum += loss
        self.loss_count += 1
        self.step += 1
        self.effective_lr = effective_lr(parts.optimizer)
        if parts.scheduler is not None and not isinstance(parts.scheduler, ReduceLROnPlateau):
            parts.scheduler.step()
        self.seconds += time.perf_counter() - started
        outcome = parts.optimizer.last if self.searches else None
        if outcome is None or not outcome.measured:
            return
        if self.step - self.last_measurement >= self.log_every:
            self.last_measurement = self.step
            self.log.record.write("measure", **{"step": self.step, **outcome.to_dict()})
            self.log.measured(self.step, outcome.to_dict())

    def _write_step(self) -> bool:
        """Write the line of the steps since the last one; say whether training can go on."""
        loss = self.team.mean(self.loss_sum / self.loss_count).item()
        outcome = self.parts.optimizer.last if self.searches else None
        self.log.step(
            **self._place(),
            train_loss=loss,
            effective_lr=self.effective_lr,
            status=None if outcome is None else outcome.status.value,
            **self._spent(),
        )
        self.loss_sum.zero_()
        self.loss_count = 0
        self.bad_lines = 0 if math.isfinite(loss) else self.bad_lines + 1
        # of a run too short for patience, all lines
        patience = min(PATIENCE_LINES, math.ceil(self.parts.extent.total_steps / self.log_every))
        if self.bad_lines < (patience if self.searches else 1):
            return True
        message = f"the training loss is not finite at step {self.step}; try a smaller step"
        self.log.record.end(self.step, "non_finite", message)
        return False

    def _evaluate(self, split: str) -> None:
        parts = self.parts
        images = getattr(parts.data, split)
        if len(images) == 0:
            return
        self.team.follow(parts.model)
        with evaluation_mode(parts.model, parts.optimizer, parts.loader):
            size = parts.experiment.train.eval_batch_size
            result = score(parts.model, images, parts.normalizer, size, parts.data.task, self.team)
        self.log.evaluation(
            self.effective_lr,
            **self._place(),
            split=split,
            loss=result.loss,
            accuracy=result.accuracy,
            **self._spent(),
        )
        if split == "validation" and isinstance(parts.scheduler, ReduceLROnPlateau):
            parts.scheduler.step(result.loss)
        if split == "validation" and self.observe is not None and self.team.leads:
            self.observe({**self._place(), "loss": result.loss, "accuracy": result.accuracy})

    def warn(self, message: str) -> None:
        """Write down a warning; the same words once."""
        message = " ".join(message.split())[:MESSAGE_LENGTH]
        if message not in self.warned:
            self.warned.add(message)
            self.log.record.write("warning", step=self.step, message=message)

    def _place(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": self.step / self.parts.extent.steps_per_epoch}

    def _spent(self) -> dict[str, Any]:
        forwards, backwards = self.parts.stepper.cost
        return {"forwards": forwards, "backwards": backwards, "seconds": round(self.seconds, 6)}

    @property
    def _stateful(self) -> dict[str, Any]:
        """What keeps a state of its own, by its name in a checkpoint."""
        names = ("model", "optimizer", "scheduler", "loader", "stepper")
        found = {name: getattr(self.parts, name) for name in names}
        return {name: part for name, part in found.items() if part is not None}

    def _save(self) -> None:
        """Save everything, after what led here has reached the disk."""
        parts = self.parts
        self.team.check_together(parts.model)
        self.loss_sum = self.team.mean(self.loss_sum)  # one number, for any number of processes
        random_states = self.team.gather(random_state())
        if not self.team.leads:
            return
        self.log.record.sync()
        state = {name: getattr(self, name) for name in SAVED}
        state |= {name: part.state_dict() for name, part in self._stateful.items()}
        state["experiment"] = parts.resolved
        save_checkpoint(self.run_dir, state, random_states)

    def _load(self, state: dict[str, Any]) -> None:
        parts = self.parts
        vars(self).update({name: state[name] for name in SAVED})
        self.loss_sum = self.loss_sum.to(parts.device)
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])
        self.effective_lr = effective_lr(parts.optimizer)
        if not restore_random_state(state, self.team.rank):  # more processes than before
            seed_everything(parts.experiment.seed + self.team.rank * SEED_STRIDE + self.step)


@contextmanager
def _interruptible(team: Team) -> Iterator[threading.Event]:
    """The first Ctrl-C asks the run to stop after its step; the second interrupts it at once.

    So does SIGTERM, by which clusters take machines back; of several processes, their launcher
    sends it to those that wait for one that is gone, and they end at once.
    """
    stop = threading.Event()

    def ask(signum: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with answered(ask), answered(ask, signal.SIGTERM) if team.size == 1 else nullcontext():
        yield stop


@contextmanager
def _heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell of every warning that is shown, and show it."""
    with warnings.catch_warnings():  # one that a former run in this process saw is shown again
        show = warnings.showwarning

        def show_and_tell(message: Any, *where: Any, **more: Any) -> None:
            tell(str(message))
            show(message, *where, **more)

        warnings.showwarning = show_and_tell
        yield
