"""Fixtures of the library's tests."""

import pytest
from _problems import Quadratic


@pytest.fixture
def quadratic() -> Quadratic:
    return Quadratic()
