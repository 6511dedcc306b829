"""The learning rate range test: a short run with a rising rate, after which nothing has changed."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from surefoot._batches import endless
from surefoot._evaluation import unsynchronized
from surefoot._networks import has_batch_norm
from surefoot._no_trace import all_parameters, no_trace, unwrapped
from surefoot._numbers import check_count
from surefoot._quiet import devices_of
from surefoot._reduce import mean
from surefoot.lr_range._checks import check_inputs, check_settings, iterations
from surefoot.lr_range._data import ValidationPoint
from surefoot.lr_range._loss import LossOf, autocast_factory
from surefoot.lr_range._position import LoaderPosition
from surefoot.lr_range._validate import Validator
from surefoot.lr_range.curve import RangeCurve
from surefoot.lr_range.ramp import Ramp, set_rate
from surefoot.lr_range.stop import StopReason, StopRule
from surefoot.outcome import Cost


class Progress(NamedTuple):
    """What ``on_progress`` is called with after each iteration.

    Args:
        iteration: counted from 0.
        num_iter: iterations of the whole test.
        lr: rate of the first param group that moves.
        loss: training loss.
        best: lowest smoothed loss so far.
    """

    iteration: int
    num_iter: int
    lr: float
    loss: float
    best: float


def range_test(
    model: nn.Module | None,
    optimizer: Optimizer,
    loader: Iterable[Any],
    loss_fn: Callable[[Any, Any], Any] | None = None,
    *,
    step_fn: Callable[[Any], Any] | None = None,
    start_lr: float | Sequence[float] = 1e-7,
    end_lr: float | Sequence[float] = 10.0,
    num_iter: int | None = None,
    epochs: float | None = None,
    step_mode: str = "exp",
    val_loader: Iterable[Any] | None = None,
    val_every: int = 2,
    val_share: float = 0.2,
    accumulation_steps: int = 1,
    autocast: Any = None,
    grad_scaler: Any = None,
    diverge_threshold: float | None = 4.0,
    on_progress: Callable[[Progress], None] | None = None,
    process_group: Any = None,
) -> RangeCurve:
    """Train for a moment while the learning rate rises, and report the loss at every rate.

    The rate of each param group rises from ``start_lr`` to ``end_lr`` along a
    :class:`~surefoot.lr_range.Ramp`. Afterwards everything is as it was, to the bit, whether the
    test ended by itself, was stopped early, raised, or was interrupted: parameters, buffers,
    gradients, modes, the optimizer's state and groups, the gradient scaler, the random states of
    torch, Python and NumPy, and the loader's position as far as it shows one. No files are
    written, nothing is printed. An attached scheduler is neither asked nor moved.

    Args:
        model: in training mode (frozen submodules may be in evaluation mode). None is allowed
            with ``step_fn``; then buffers and modes cannot be put back.
        optimizer: any torch optimizer with ``lr`` in its groups and a ``step()`` that needs no
            closure.
        loader: any iterable of batches; read again from its front when it is short.
        loss_fn: ``loss_fn(model(inputs), targets)`` for batches that are pairs. If neither it
            nor ``step_fn`` is given, the model returns the loss, or an output that holds it
            under ``loss``.
        step_fn: ``step_fn(batch)`` returns the loss and does not call ``backward()``; the batch
            comes as the loader gave it. It may return ``{"loss": ..., "accuracy": ...}``.
        start_lr: lowest rate. A number is the rate of the first group, and the others keep
            their present ratios to it; a sequence has one rate per group.
        end_lr: highest rate, likewise.
        num_iter: optimizer steps of the whole ramp; 100 unless ``epochs`` is given.
        epochs: the same as passes over ``loader``.
        step_mode: ``"exp"``, equal factors, or ``"linear"``, equal differences.
        val_loader: if given, loss and accuracy are measured on it, too.
        val_every: iterations between two validations.
        val_share: share of the validation set used, the same examples each time: of a DataLoader
            that reads in order every n-th example, of others some batches.
        accumulation_steps: batches per optimizer step; their losses are averaged.
        autocast: a dtype such as ``torch.bfloat16``, a ``torch.autocast`` or a function that
            returns a context manager.
        grad_scaler: the run's ``torch.amp.GradScaler``, for float16.
        diverge_threshold: see :class:`~surefoot.lr_range.StopRule`; None never stops early, not
            even where every loss is NaN. A batch whose loss is not finite makes no step.
        on_progress: called with a :class:`Progress` after each iteration.
        process_group: processes whose losses are averaged, so that all of them stop together;
            the default group if there is one.

    Returns:
        What was measured: ask it with ``.suggestion()``, ``.plot()``, ``.apply(optimizer)``.

    Raises:
        TypeError, ValueError: before the first batch, for arguments that cannot work.

    Example:
        >>> import torch
        >>> from surefoot.lr_range import range_test
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 10)
        >>> y = (x[:, 0] > 0).long()
        >>> model = torch.nn.Linear(10, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss_fn = torch.nn.functional.cross_entropy
        >>> curve = range_test(model, optimizer, [(x, y)], loss_fn, start_lr=1e-3)
        >>> curve.stop.value, optimizer.param_groups[0]["lr"]
        ('finished', 0.1)

    References:
        Smith, *Cyclical learning rates for training neural networks*, 1506.01186, section 3.3;
        Smith and Topin, *Super-convergence*, 1708.07120.

    *When it fails*: a data set that counts its own accesses, a one-shot iterator and hooks with
    side effects keep what they saw. The rates hold for this batch size, weight decay and these
    weights.
    """
    functions = {"loss_fn": loss_fn, "step_fn": step_fn, "on_progress": on_progress}
    loaders = {"loader": loader, "val_loader": val_loader}
    check_inputs(model, optimizer, loaders, functions, grad_scaler)
    accumulation_steps = check_count("accumulation_steps", accumulation_steps)
    val_every = check_count("val_every", val_every)
    check_settings(diverge_threshold, val_loader, val_share)
    steps = iterations(num_iter, epochs, loader, accumulation_steps)
    ramp = Ramp.build(optimizer, start_lr, end_lr, steps, step_mode)
    params = all_parameters(model, optimizer)
    device = params[0].device
    loss_of = LossOf(model, loss_fn, step_fn, autocast_factory(autocast, device), device)
    if isinstance(loader, Iterator):
        warnings.warn(
            "the loader is an iterator, which cannot be put back: the batches that the range test "
            "reads are gone afterwards. Pass the iterable itself to leave no trace.",
            stacklevel=2,
        )
    began = time.perf_counter()
    positions = [LoaderPosition(each).restore for each in loaders.values()]
    with no_trace(model, optimizer, scaler=grad_scaler, others=positions):
        validator = None
        if val_loader is not None:
            devices = devices_of(params)
            validator = Validator(val_loader, loss_of, val_share, devices, process_group)
        scaler = grad_scaler or torch.amp.GradScaler(enabled=False)  # which passes all through
        run = _Run(optimizer, ramp, loss_of, accumulation_steps, scaler, process_group)
        stop = StopRule(diverge_threshold, steps)
        # closed on every way out, so that the loader's workers do not outlive the test
        with contextlib.closing(endless(loader)) as batches:
            reason = run.walk(batches, stop, validator, val_every, on_progress)
    passes = accumulation_steps * len(run.lr)
    return RangeCurve(
        lr=run.lr,
        loss=run.loss,
        ramp=ramp,
        stop=reason,
        accuracy=run.accuracy if len(run.accuracy) == len(run.lr) else [],
        validation=run.validation,
        optimizer=type(unwrapped(optimizer)[-1]).__name__,
        batch_norm=None if model is None else has_batch_norm(model),
        cost=Cost(passes + (validator.forwards if validator else 0), passes),
        seconds=time.perf_counter() - began,
    )


@dataclass
class _Run:
    """The iterations of one range test, and what they yield."""

    optimizer: Optimizer
    ramp: Ramp
    loss_of: LossOf
    accumulation: int
    scaler: Any
    group: Any
    lr: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation: list[ValidationPoint] = field(default_factory=list)

    def walk(
        self,
        batches: Iterator[Any],
        stop: StopRule,
        validator: Validator | None,
        val_every: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> StopReason:
        """Go along the ramp; the reason why it ended."""
        last = self.ramp.num_iter - 1
        for i in range(self.ramp.num_iter):
            rates = self.ramp.rates(i)
            # written into the groups directly: a scheduler would leave its own keys behind
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                set_rate(group, rate)
            loss = self._forward_backward(batches)
            self.lr.append(rates[self.ramp.reference])
            self.loss.append(loss)
            reason = stop.update(loss)
            if reason is None and math.isfinite(loss):  # nobody wants the weights to be NaN, too
                self.scaler.step(self.optimizer)
                self.scaler.update()
            due = reason is None and (i % val_every == val_every - 1 or i == last)
            if validator is not None and due:
                self.validation.append(ValidationPoint(i, self.lr[-1], *validator.measure()))
            if on_progress is not None:
                on_progress(Progress(i, self.ramp.num_iter, self.lr[-1], loss, stop.best))
            if reason is not None:
                return reason
        return StopReason.FINISHED

    @torch.enable_grad()
    def _forward_backward(self, batches: Iterator[Any]) -> float:
        """Gradients of one optimizer step; the mean loss, the same on every process."""
        self.optimizer.zero_grad(set_to_none=True)
        total: Any = 0.0
        correct: Any = 0.0
        samples = 0
        for k in range(self.accumulation):
            is_last = k == self.accumulation - 1  # before it, DDP need not exchange gradients
            with contextlib.nullcontext() if is_last else unsynchronized([self.loss_of.model]):
                found = self.loss_of(next(batches))
                loss = found.loss / self.accumulation
                if not loss.requires_grad:
                    raise RuntimeError(
                        "the loss has no gradient: return it attached to the graph (no .item(), "
                        "no .detach(), no torch.no_grad())"
                    )
                try:
                    self.scaler.scale(loss).backward()
                except RuntimeError as error:
                    if "second time" not in str(error):
                        raise
                    raise RuntimeError(
                        "the loss was differentiated already: step_fn returns it and leaves "
                        "backward() to the range test"
                    ) from error
            loss = loss.detach()
            total = total + (loss.float() if loss.dtype.itemsize < 4 else loss)
            correct = None if correct is None or found.correct is None else correct + found.correct
            samples += found.samples
        if correct is not None and samples:
            total, correct = torch.stack((total, correct.to(total.dtype))).tolist()
            self.accuracy.append(mean(correct / samples, self.group, self.loss_of.device))
        return mean(float(total), self.group, self.loss_of.device)
