"""What a range test measured: plain numbers that can be kept, drawn and asked for a rate."""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from surefoot._strict_json import decode, encode
from surefoot.lr_range import suggest as rules
from surefoot.lr_range._course import read_losses
from surefoot.lr_range._data import RangeData, ValidationPoint
from surefoot.lr_range._smooth import finite_part
from surefoot.lr_range.ramp import Ramp, check_rates, group_ratios, set_rate
from surefoot.lr_range.stop import StopReason
from surefoot.lr_range.suggest import Suggestion
from surefoot.outcome import Cost
from surefoot.plots.ranges import range_curve

SCHEMA = 1


@dataclass(frozen=True)
class RangeCurve(RangeData):
    """Loss against learning rate, as :func:`~surefoot.range_test` measured it.

    ``loss[i]`` is the training loss of iteration ``i``, before the step that is made with
    ``lr[i]``; nothing is smoothed or left out. ``lr`` holds the rates of the first param group
    that moves; :meth:`group_rates` gives those of the others.

    Its fields are those of :class:`~surefoot.lr_range.RangeData`.

    Example:
        >>> from surefoot.lr_range import Ramp, RangeCurve
        >>> ramp = Ramp((1e-4,), (1.0,), num_iter=9, step_mode="exp")
        >>> curve = RangeCurve(
        ...     lr=[ramp.rates(i)[0] for i in range(9)],
        ...     loss=[2.3, 2.3, 2.25, 2.0, 1.5, 1.2, 1.1, 1.9, 4.0],
        ...     ramp=ramp,
        ... )
        >>> round(curve.suggestion("steepest"), 4)
        0.01

    *When it fails*: a curve says which rates one short run from these weights survives. Late in
    training, for another batch size or another weight decay, the answer is another one.
    """

    # -- asking it --------------------------------------------------------------------------

    def suggest(self, rule: str = rules.DEFAULT) -> Suggestion:
        """The answer of one rule with its evidence; it may be that there is none, and why.

        Raises:
            ValueError: if there is no rule of that name.
        """
        if rule not in rules.RULES:
            raise ValueError(f"no rule {rule!r}; there are {', '.join(rules.RULES)}")
        return rules.RULES[rule](self)

    def suggestion(self, rule: str = rules.DEFAULT) -> float:
        """The suggested learning rate as a number.

        Raises:
            NoSuggestion: if the curve holds none; the message says why and what to do.
        """
        return float(self.suggest(rule))

    def __float__(self) -> float:
        return self.suggestion()

    def suggestions(self) -> dict[str, Suggestion]:
        """The answers of all rules, by name."""
        return {name: self.suggest(name) for name in rules.RULES}

    @property
    def read(self) -> tuple[list[float], list[float]]:
        """Rates and losses that the rules read: validation where there is enough, else training."""
        return read_losses(self)

    def loss_at(self, rate: float) -> float:
        """The loss at a rate, between the points on a straight line over the rates' logarithms.

        That of the curve that the rules read: the validation losses if there are enough of them,
        else those of training. Outside of it the nearest end's; NaN if no loss is finite.
        """
        lr, losses = finite_part(*read_losses(self))
        if not lr:
            return math.nan
        i = bisect.bisect_left(lr, rate)
        if i in (0, len(lr)):
            return losses[min(i, len(lr) - 1)]
        share = math.log(rate / lr[i - 1]) / math.log(lr[i] / lr[i - 1])
        return losses[i - 1] + share * (losses[i] - losses[i - 1])

    def group_rates(self, rate: float) -> list[float]:
        """The rate of every param group where the first moving one has ``rate``."""
        return self.ramp.rates_for(rate)

    def rates_for(self, optimizer: Optimizer, rate: float) -> list[float]:
        """The same for this optimizer's groups; a curve of one group scales them all alike.

        Raises:
            ValueError: if the curve was measured with another number of groups.
        """
        check_rates(optimizer)
        if len(optimizer.param_groups) == len(self.ramp.starts):
            return self.group_rates(rate)
        if len(self.ramp.starts) == 1:
            return [rate * ratio for ratio in group_ratios(optimizer)]
        raise ValueError(
            f"the curve was measured with {len(self.ramp.starts)} param groups, "
            f"this optimizer has {len(optimizer.param_groups)}"
        )

    @property
    def message(self) -> str:
        """One sentence on how the test ended."""
        n, last = len(self.lr), self.lr[-1] if self.lr else math.nan
        where = f"at iteration {n} of {self.ramp.num_iter}, learning rate {last:.3g}"
        return {
            StopReason.FINISHED: f"all {n} iterations were made, up to learning rate {last:.3g}",
            StopReason.DIVERGED: f"the loss diverged {where}",
            StopReason.NON_FINITE: f"the loss was NaN or infinite {where}",
            StopReason.PLATEAU: f"the loss fell, came back and stays on a plateau {where}",
        }[self.stop]

    def __repr__(self) -> str:
        rate = self.suggest().rate
        answer = "none" if rate is None else f"{rate:.3g}"
        return f"<RangeCurve of {len(self.lr)} points, suggestion {answer}; {self.message}>"

    # -- using it ---------------------------------------------------------------------------

    def apply(self, optimizer: Optimizer, rate: float | str | None = None) -> list[dict[str, Any]]:
        """Set ``lr`` and ``initial_lr`` of every param group, and say what changed.

        ``initial_lr`` is what a scheduler starts from: one left over from an earlier scheduler
        would silently undo the new rate.

        Args:
            optimizer: as many param groups as the one that was tested.
            rate: a number, the name of a rule, or None for :meth:`suggestion`.

        Returns:
            One dict per group with ``group``, ``lr`` and ``initial_lr``, the last two as pairs
            ``(before, now)``; ``before`` is None where there was none.
        """
        if rate is None or isinstance(rate, str):
            rate = self.suggestion(rate or rules.DEFAULT)
        rates = self.rates_for(optimizer, rate)
        if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
            warnings.warn(
                "a learning rate scheduler was built on this optimizer; if it is still in use, it "
                "will overwrite the rate at its next step: build it after apply(), not before",
                stacklevel=2,
            )
        changes = []
        for g, (group, new) in enumerate(zip(optimizer.param_groups, rates, strict=True)):
            before = {key: _plain(group.get(key)) for key in ("lr", "initial_lr")}
            for key in before:
                set_rate(group, new, key)
            changes.append({"group": g, **{key: (old, new) for key, old in before.items()}})
        return changes

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the curve with its suggestion; returns the matplotlib Axes, shows nothing.

        See :func:`surefoot.plots.range_curve` for the options.
        """
        return range_curve(self, ax=ax, **options)

    # -- keeping it -------------------------------------------------------------------------

    def to_json(self, path: str | Path | None = None) -> str:
        """The curve as strict JSON text, written to ``path`` as well if given."""
        content = {"schema": SCHEMA, **encode(dataclasses.asdict(self))}
        text = json.dumps(content, indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> RangeCurve:
        """Read a curve from a path, or from the text that :meth:`to_json` returned.

        Raises:
            ValueError: if it is not a range curve of a known schema.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        try:
            content = decode(json.loads(text))
            if content.pop("schema", None) != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            for former in ("hessian_free", "momentum"):  # of earlier versions
                content.pop(former, None)
            return cls(
                ramp=Ramp(**decode(content.pop("ramp"), tuple)),
                stop=StopReason(content.pop("stop")),
                loss=list(map(_or_nan, content.pop("loss"))),
                validation=[
                    ValidationPoint(
                        **{**point, "lr": float(point["lr"]), "loss": _or_nan(point["loss"])}
                    )
                    for point in content.pop("validation")
                ],
                cost=Cost(**content.pop("cost")),
                **content,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = "this text" if is_text else str(source)
            raise ValueError(f"{name} is not a range curve: {error}") from error


def _or_nan(value: Any) -> Any:
    """A loss as it was written; other programs write null for NaN."""
    return math.nan if value is None else value


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)
