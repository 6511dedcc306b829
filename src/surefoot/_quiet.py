"""What a forward pass uses up, random states and buffers; and how whoever measures gives it back.

One promise for optimizers, replays, walks along lines and range tests: the global random generators
of torch, Python and NumPy, and all buffers, are afterwards as before, or, in a step, as its one
ordinary forward pass left them. What else a training step changes: :mod:`surefoot._no_trace`.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


def devices_of(tensors: Iterable[torch.Tensor]) -> tuple[torch.device, ...]:
    """The distinct devices that hold ``tensors``, in a stable order."""
    return tuple(sorted({t.device for t in tensors}, key=str))


@dataclass(eq=False)
class RngState:
    """The states of the global random generators: torch's, Python's and, where loaded, NumPy's.

    Args:
        cpu: torch's on the CPU.
        accelerators: torch's on other devices.
        python: Python's; None where it is to be left alone.
        numpy: NumPy's, likewise.
    """

    cpu: torch.Tensor
    accelerators: dict[torch.device, torch.Tensor]
    python: Any = None
    numpy: Any = None

    @classmethod
    def capture(cls, devices: Iterable[torch.device] = ()) -> RngState:
        """Remember the states as they are now."""
        accelerators = {
            device: torch.get_device_module(device).get_rng_state(*_index(device))
            for device in devices
            if device.type not in ("cpu", "meta")
        }
        numpy = _numpy_random()
        own = None if numpy is None else numpy.get_state()
        return cls(torch.get_rng_state(), accelerators, random.getstate(), own)

    def restore(self) -> None:
        """Put the remembered states back."""
        torch.set_rng_state(self.cpu)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None and (numpy := _numpy_random()) is not None:
            numpy.set_state(self.numpy)
        for device, state in self.accelerators.items():
            torch.get_device_module(device).set_rng_state(state, *_index(device))

    def to_dict(self) -> dict[str, Any]:
        """All of them as tensors and plain values, which any checkpoint keeps."""
        kept: dict[str, Any] = {"cpu": self.cpu}
        kept |= {str(device): state for device, state in self.accelerators.items()}
        if self.python is not None:
            version, internal, gauss = self.python
            kept["python"] = (version, torch.tensor(internal), gauss)
        if self.numpy is not None:
            name, keys, *rest = self.numpy
            kept["numpy"] = (name, torch.from_numpy(keys.astype("int64")), *rest)
        return kept

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> RngState:
        """Back from :meth:`to_dict`; what an older checkpoint lacks is left alone."""
        states = dict(kept)
        python, numpy = states.pop("python", None), states.pop("numpy", None)
        if python is not None:
            python = (python[0], tuple(python[1].tolist()), python[2])
        if numpy is not None:
            numpy = (numpy[0], numpy[1].numpy().astype("uint32"), *numpy[2:])
        cpu = states.pop("cpu")
        return cls(cpu, {torch.device(name): s for name, s in states.items()}, python, numpy)


def _numpy_random() -> Any:
    """NumPy's module; None where it is not loaded, so that nobody has drawn from it."""
    return getattr(sys.modules.get("numpy"), "random", None)


def _index(device: torch.device) -> tuple[torch.device, ...]:
    """MPS has one generator and no device argument."""
    return () if device.type == "mps" else (device,)


class Buffers:
    """A copy of all buffers of a module (BatchNorm statistics, averages, spectral norms).

    Buffers are found by owner and name, so that a module that rebinds a buffer instead of writing
    into it is restored as well. The same object can take many snapshots without allocating again.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self._module = module
        self._owners: list[tuple[nn.Module, str, torch.Tensor]] = []
        self._copies: list[torch.Tensor] = []

    @torch.no_grad()
    def snapshot(self) -> Buffers:
        """Copy every buffer as it is now; returns itself."""
        if self._module is None:
            return self
        owners = [
            (owner, name, buffer)
            for owner in self._module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None and not nn.parameter.is_lazy(buffer)
        ]
        last, self._owners = self._owners, owners
        if owners and [id(b) for _, _, b in owners] == [id(b) for _, _, b in last]:
            torch._foreach_copy_(self._copies, [buffer for _, _, buffer in owners])
        else:
            self._copies = [buffer.clone() for _, _, buffer in owners]
        return self

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back, bit for bit, and rebind what was rebound."""
        for owner, name, buffer in self._owners:
            if owner._buffers[name] is not buffer:
                owner._buffers[name] = buffer
        if self._owners:
            torch._foreach_copy_([buffer for _, _, buffer in self._owners], self._copies)


@contextlib.contextmanager
def undisturbed(
    model: nn.Module | None, devices: Iterable[torch.device], begin: Buffers | None = None
) -> Iterator[None]:
    """Inside, random states and buffers may be used up; afterwards they are as on entry.

    Args:
        model: whose buffers may change.
        devices: those whose random numbers may be drawn.
        begin: the buffers to begin with; None for those of now.
    """
    entry = _Moment(model, devices)
    entry.keep()
    try:
        if begin is not None:
            begin.restore()
        yield
    finally:
        entry.restore()


class _Moment:
    """Random states and buffers at one time; a later one takes the memory of the last."""

    def __init__(self, model: nn.Module | None, devices: Iterable[torch.device]) -> None:
        self._buffers, self._devices = Buffers(model), devices

    def keep(self) -> None:
        """Remember both as they are now."""
        self._random = RngState.capture(self._devices)
        self._buffers.snapshot()

    def restore(self) -> None:
        """Put both back."""
        self._random.restore()
        self._buffers.restore()


class QuietRoom:
    """All evaluations inside hear the same random numbers and start from the same buffers.

    The first evaluation is the ordinary forward pass of the step: whatever it does to random
    generators and buffers stays done when the room is left. Later ones leave nothing behind. An
    exception puts both back to where they were on entry.
    """

    def __init__(self, params: Iterable[torch.Tensor], model: nn.Module | None) -> None:
        devices = devices_of(params)
        self._before, self._after = _Moment(model, devices), _Moment(model, devices)
        self._disturbed = False

    def __enter__(self) -> QuietRoom:
        self._before.keep()
        self._disturbed = False
        return self

    def repeat(self) -> None:
        """Call before every evaluation but the first."""
        if not self._disturbed:
            self._after.keep()
            self._disturbed = True
        self.rewind()

    def rewind(self) -> None:
        """Buffers and random state as on entry: before an evaluation is made once more."""
        self._before.restore()

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self.rewind()
        elif self._disturbed:
            self._after.restore()
