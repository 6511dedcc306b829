"""LABPAL between two batches: what it remembers, what the next batch is for. Plain floats."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surefoot.optim._memory import Memory
from surefoot.optim.batch_growth import batches_at
from surefoot.outcome import Status, StepOutcome
from surefoot.reuse import Pooled, mean_of, within_growth
from surefoot.searches.large_batch import LargeBatchSearch

BATCHES = 10
"""k of the papers: the most batches in a measurement."""
_SHARE = 0.1
"""Of the steps so far that may be spent on collecting, where the rate is pooled."""
_OFTEN, _LATER, _RARELY = 4, 30, 1000
"""Measured after a quarter of the updates so far, from 30 on after a 30th, at last every 1000."""
_NEWEST = 25
"""Trusted measurements of which the published rule takes the mean."""


class Phase(str, enum.Enum):
    """What the batch of the next ``step`` call is for."""

    REUSING = "reusing"
    """Its gradient moves the weights, alone or with those of a grown batch."""
    GATHERING = "gathering"
    """Its gradient goes into the direction that is going to be measured."""
    MEASURING = "measuring"
    """Its loss alone, at three places along that direction; the weights wait."""


@dataclass
class LABPALMemory(Memory):
    """What LABPAL remembers.

    Args:
        updates: updates made.
        since_measurement: of them, those since the last measurement.
        batches_per_update: m, of the update or measurement under way.
        gathered: of them, batches whose gradient is already in the direction.
        measuring: batches of the measurement under way, 0 for none.
        measured: of them, those in the sums below.
        skipped: batches without a finite loss, left out of it.
        value_sums: losses at 0 and at the two probes.
        rate: what is reused: a learning rate ("sgd") or a length ("nsgd").
        pooled: slope and curvature of the lines measured so far, per unit of the rate.
        recent: trusted measurements of the published rule, the latest last.
        collected: steps spent on collecting, since the start of training.
        measured_for: batches per update at the last measurement.
        probe_length: distance of the farthest probe now.
        edge: distance at which a loss was not finite; doubled by each measurement.
        failures: measurements in a row without a minimum.
        minimum_at: step of the last one that found one.
    """

    updates: int = 0
    since_measurement: int = 0
    batches_per_update: int = 0
    gathered: int = 0
    measuring: int = 0
    measured: int = 0
    skipped: int = 0
    value_sums: tuple[float, ...] = (0.0, 0.0, 0.0)
    rate: float | None = None
    pooled: tuple[float, float] = (0.0, 0.0)
    recent: tuple[float, ...] = ()
    collected: int = 0
    measured_for: int = 0
    probe_length: float | None = None
    edge: float | None = None
    failures: int = 0
    minimum_at: int = 0

    @property
    def phase(self) -> Phase:
        """What the next batch is for."""
        if not self.measuring:
            return Phase.REUSING
        return Phase.GATHERING if self.gathered < self.batches_per_update else Phase.MEASURING

    # Between updates

    def plan(self, settings: Mapping[str, Any]) -> None:
        """Decide how many batches the next update has, and how many measure with it: 0 for none."""
        m = self.batches_per_update = batches_at(self.steps, settings)
        due = (
            self.rate is None
            or self.since_measurement >= (settings["reuse"] or self._interval())
            or m != self.measured_for
            # after a failure soon, and ever more rarely
            or (self.failures > 0 and self.since_measurement >= 2**self.failures)
        )
        if settings["rule"] != "pooled":
            due |= not self.recent and self.updates > settings["burn_in"]
        self.measuring = (settings["measuring_batches"] or self._room_for(m)) if due else 0

    def _interval(self) -> int:
        """Updates from one measurement to the next."""
        updates = self.updates
        return max(1, min(updates // _OFTEN, max(_LATER, updates // _LATER), _RARELY))

    def _room_for(self, m: int) -> int:
        """How many batches a measurement may have, so that collecting costs its share at most."""
        room = _SHARE * (self.steps + 1) - self.collected
        return max(1, min(BATCHES, 1 + int(room / m)))

    def clear(self) -> None:
        """An update was made, or a measurement given up: nothing is gathered."""
        self.gathered = self.measured = self.skipped = 0
        self.value_sums = (0.0, 0.0, 0.0)

    # While measuring

    def add(self, values: Sequence[float], weight: int) -> bool:
        """Take in losses at the three places; whether that was the last batch."""
        pairs = zip(self.value_sums, values, strict=True)
        self.value_sums = tuple(s + weight * v for s, v in pairs)
        self.measured += weight
        self.gathered = self.batches_per_update
        is_last = self.measured >= self.measuring * self.batches_per_update
        self.collected += not is_last
        return is_last

    def skip(self) -> bool:
        """A batch without a finite loss; whether there were as many as were to be measured."""
        self.skipped += 1
        return self.skipped >= self.measuring * self.batches_per_update

    def shy_away(self, edge: float) -> None:
        """A loss is finite at the start and not at ``edge``: measure anew, much nearer."""
        self.edge, self.probe_length = edge, 0.1 * edge

    # What a measurement says: ``per_length`` is the rate that moves by 1

    def pool(self, search: LargeBatchSearch, found: StepOutcome, per_length: float) -> None:
        """The minimum of all lines so far; see :class:`surefoot.reuse.Pooled`."""
        if found.parabola is None or found.status is Status.FLAT:
            return
        slope, bend = found.parabola.slope0 / per_length, found.parabola.curvature / per_length**2
        lines = Pooled(*self.pooled).and_of(slope, bend, weight=self.measured)
        self.pooled = (lines.slope, lines.curvature)
        if self.rate is not None:
            self.rate = within_growth(lines.minimum, self.rate)
        elif lines.minimum > 0.0:
            # no farther than seen where the loss only falls, where it bends not much farther
            times = 1.0 if found.status is Status.NOT_CONVEX else 4.0
            self.rate = min(lines.minimum, times * search.measuring_length * per_length)

    def average(
        self, search: LargeBatchSearch, found: StepOutcome, per_length: float, burn_in: int
    ) -> None:
        """The mean of the newest minima, once the burn-in is over: the papers' rule."""
        if found.status in (Status.MINIMUM, Status.CAPPED):
            self.rate = found.length * per_length
            if self.updates > burn_in or burn_in == 0:
                self.recent = (*self.recent, self.rate)[-_NEWEST:]
                self.rate = mean_of(self.recent)
        elif self.rate is None and found.status is Status.NOT_CONVEX:
            # nothing to keep yet: as far as the loss was seen to fall, as PAL does
            self.rate = min(search.measuring_length, search.max_length) * per_length

    def aim(self, reach: float, found: StepOutcome, per_length: float) -> float:
        """Measure the next time about twice as far away as the minimum now is."""
        wanted = 0.0 if self.rate is None else 2.0 * self.rate / per_length
        if found.status is Status.FLAT:
            wanted = math.inf  # differences that drown in rounding
        return min(max(wanted, reach / 4.0), 4.0 * reach)

    def leave_edge(self, reach: float, farthest: float, usual: float) -> None:
        """Measure farther away again after losses that were not finite."""
        assert self.edge is not None
        self.edge *= 2.0
        self.probe_length = min(2.0 * reach, 0.5 * self.edge, farthest)
        if self.edge > 2.0 * usual:
            self.edge = None
