"""Run trials on Ray Tune. What is done and what is not stands in the records, not in Ray."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from surefoot_lab.config import EarlyStoppingConfig, SweepConfig
from surefoot_lab.errors import UserError, named, one_line
from surefoot_lab.records.lock import PATIENCE_S
from surefoot_lab.signals import answered
from surefoot_lab.sweep.cells import Trial
from surefoot_lab.sweep.trial import close_record, run_trial
from surefoot_lab.training.log import MESSAGE_LENGTH

SCRATCH_NAME = ".ray"  # Ray's own notes; of no use once the sweep has ended
OBJECT_STORE_BYTES = 100_000_000  # nothing but settings and scores goes through it
ENDLESS = 1_000_000
CONNECT_S = 10.0
RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one is silent when asked to be
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # the runs are the work itself, not what may wait for other work
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def load_ray() -> tuple[Any, Any]:
    """Ray and its Tune, told how they are wanted before they are imported."""
    os.environ.update({key: value for key, value in RAY_SETTINGS.items() if key not in os.environ})
    import ray
    from ray import tune

    return ray, tune


def run_on_ray(
    trials: Sequence[Trial],
    folder: Path,
    sweep: SweepConfig,
    *,
    address: str | None = None,
    concurrent: int | None = None,
    tell: Callable[[Trial, str], None] | None = None,
) -> None:
    """Run trials that are not done, each in its own directory; failures do not stop the rest.

    A worker process goes on with the next trial when one has ended well, which saves the start of
    Python and torch, longer than many a small run; one whose trial failed ends. Under early
    stopping each trial has a process of its own.

    Args:
        trials: what to run.
        folder: the sweep's directory; on a cluster, one that all nodes see.
        sweep: resources and early stopping.
        address: of a running Ray cluster; None starts Ray on this machine, for this sweep only.
        concurrent: most trials at a time; None for as many as the resources allow.
        tell: called after every trial, whatever became of it, with what its process said last.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        UserError: there is no cluster at the address.
    """
    ray, tune = load_ray()
    scratch = folder / SCRATCH_NAME
    shutil.rmtree(scratch, ignore_errors=True)
    closer = _closer(trials, folder, tell)
    with _ray(ray, address, sweep):
        payload = {
            "trials": list(trials),
            "folder": str(folder),
            "cwd": str(Path.cwd()),
            "path": [place for place in sys.path if place],
            "threads": max(1, int(sweep.cpus_per_trial)),
        }
        resources = {"cpu": sweep.cpus_per_trial, "gpu": sweep.gpus_per_trial}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_on_worker, payload=payload), resources),
            param_space={"place": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=concurrent,
                scheduler=_scheduler(sweep.early_stopping),
                reuse_actors=sweep.early_stopping is None,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(scratch),
                verbose=0,
                callbacks=[closer],
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        with ExitStack() as stack:  # Ray's handlers end with its work: Ctrl-C is Ctrl-C again
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number) or signal.SIG_DFL
                stack.enter_context(answered(handler, number))
            tuner.fit()
    for end in closer.later:
        closer.close(*end, patience_s=PATIENCE_S)
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _ray(ray: Any, address: str | None, sweep: SweepConfig) -> Any:
    """A connection to Ray; what was started for this sweep ends with it."""
    for name in ("ray", "ray.tune"):  # what it would report stands in the records
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address=address or "local", **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: {one_line(error)}") from None
    try:
        _check_resources(ray.cluster_resources(), sweep)
        yield
    finally:
        ray.shutdown()


def check_address(address: str | None) -> None:
    """Refuse a place where nobody answers: Ray would try for minutes.

    Raises:
        UserError: says why.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdigit():  # Ray's own words, such as `auto`
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--address {address}: no cluster there ({reason})") from None


def _check_resources(there: dict[str, float], sweep: SweepConfig) -> None:
    """Refuse what no node can give: Ray would wait for it for ever."""
    for name, wanted in (("CPU", sweep.cpus_per_trial), ("GPU", sweep.gpus_per_trial)):
        if wanted > there.get(name, 0):
            raise UserError(
                f"{name.lower()}s_per_trial: {wanted:g} asked for, {there.get(name, 0):g} there"
            )


def _scheduler(config: EarlyStoppingConfig | None) -> Any:
    """ASHA: at each rung, the trials that are not among the best so far are given up."""
    if config is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="epoch",
        metric=config.metric,
        mode="max" if config.metric == "accuracy" else "min",
        max_t=config.grace_epochs * ENDLESS,  # the run itself knows its end
        grace_period=config.grace_epochs,
        reduction_factor=config.reduction_factor,
        stop_last_trials=False,
    )


def _closer(
    trials: Sequence[Trial], folder: Path, tell: Callable[[Trial, str], None] | None
) -> Any:
    """Ray's news of ended trials, for the records of those that could not write it themselves."""
    from ray.tune import Callback

    class Closer(Callback):
        def __init__(self) -> None:
            self.later: list[tuple[Trial, str, str]] = []

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            message = "given up by early stopping: others did better at the same epoch"
            self._close(trial, "stopped", message)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            said = _last_words(trial) or "the process of this trial ended without a word"
            self._close(trial, "failed", said)

        def _close(self, trial: Any, reason: str, message: str) -> None:
            end = by_place[trial.config["place"]], reason, message
            try:
                self.close(*end, patience_s=0.0)
            except UserError:  # its process has not ended yet; it will have when Ray has
                self.later.append(end)

        def close(self, ours: Trial, reason: str, message: str, patience_s: float) -> None:
            run_dir = folder / ours.fingerprint
            with suppress(OSError):  # nothing can be written: it is told, and the rest goes on
                if run_dir.is_dir():
                    close_record(run_dir, reason, message, patience_s)
            if tell is not None:
                tell(ours, message)

    by_place = list(trials)
    return Closer()


def _last_words(trial: Any) -> str:
    """The error that ended a trial; empty if its process was killed."""
    from ray import cloudpickle

    with suppress(Exception):  # there is no such file, or nothing that is known here
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes()).cause
        said = one_line if isinstance(error, UserError) else named
        return said(error, MESSAGE_LENGTH)
    return ""


def _on_worker(config: dict[str, Any], payload: dict[str, Any]) -> None:
    """What a Ray worker does: become a process like the one that the sweep was started from."""
    from ray import tune

    sys.path += [place for place in payload["path"] if place not in sys.path]
    if Path(payload["cwd"]).is_dir():
        os.chdir(payload["cwd"])
    import torch

    torch.set_num_threads(payload["threads"])
    trial: Trial = payload["trials"][config["place"]]
    try:
        run_trial(trial, Path(payload["folder"]) / trial.fingerprint, observe=tune.report)
    finally:  # the next trial of this process begins with the memory of a new one
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
