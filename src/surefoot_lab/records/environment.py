"""Describe where a run takes place: what someone needs to know to trust or repeat a number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torchvision", "accelerate", "pytorchcv", "scikit-learn", "numpy")


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, hardware and commit, as plain JSON types.

    Args:
        device: the device the run computes on, as torch writes it.
    """
    import torch

    on_cuda = device.startswith("cuda")
    return {
        "surefoot": version("surefoot"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if on_cuda else None,
        "commit": _commit(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def describe_node() -> dict[str, str]:
    """Where this process works: the machine's name, and in a Ray cluster the node.

    Apart from the environment, which is the same on all nodes of a uniform cluster.
    """
    node = {"host": platform.node()}
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        node["ray"] = ray.get_runtime_context().get_node_id()
    return node


def version(package: str) -> str | None:
    """Which one is installed; None if none is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit this package was run from, with `-dirty` if tracked files differ from it."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always"]
    command += ["--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
