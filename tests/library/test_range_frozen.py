"""Measured curves and what every rule reads off them: the same numbers in every version.

The curves come from benchmarks/suggestion_rules. A change that moves one of these numbers is a
change that users feel: it belongs into the changelog with the number before and after.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surefoot.lr_range import RULES, RangeCurve
from surefoot.lr_range.suggest import DEFAULT

FROZEN: dict[str, Any] = json.loads(
    Path(__file__).with_name("test_range_frozen.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", FROZEN)
def test_the_same_curve_gives_the_same_rates(name: str) -> None:
    curve = RangeCurve.from_json(json.dumps(FROZEN[name]["curve"]))
    expected = FROZEN[name]["rates"]
    assert set(RULES) == set(expected)
    for rule, rate in expected.items():
        found = curve.suggest(rule).rate
        # six digits are kept in the file; the last bits of log and exp differ between machines
        assert found == (None if rate is None else pytest.approx(rate, rel=1e-5)), rule


def test_the_default_rule_is_part_of_the_promise() -> None:
    assert DEFAULT == "consensus"
