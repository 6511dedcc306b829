"""Tiny data sets in the formats of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import _formats
import pytest
import torch
from _chromium import Browser


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small run fastest on one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of a file."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def offline(browser: Browser) -> Iterator[None]:
    """Whatever a test does: no error or warning on the console, no request but for the page."""
    browser.requests.clear()
    browser.complaints.clear()
    yield
    browser.js("0")  # what happened until now has been told when this is answered
    assert browser.complaints == []
    assert all(url.startswith("file:///") and url.endswith(".html") for url in browser.requests)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """CIFAR-10 as an image folder: 10 classes of 32x32 JPEG, 4 to train on and 2 to test each."""
    return _formats.write_image_folder(tmp_path / "images")


@pytest.fixture
def write_idx() -> Callable[..., None]:
    """Write arrays as IDX files, gzipped where the name ends so."""
    return _formats.write_idx


@pytest.fixture
def fashion_root(tmp_path: Path) -> Path:
    """Fashion-MNIST's four files, gzipped, with 40 training and 20 test images."""
    return _formats.write_fashion_mnist(tmp_path / "fashion")
