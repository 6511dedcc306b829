"""The quiet room: whoever measures hears the same random numbers and leaves every buffer still."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["Buffers", "RngState", "devices_of"]


def devices_of(tensors: Iterable[torch.Tensor]) -> tuple[torch.device, ...]:
    """The distinct devices that hold ``tensors``, in a stable order."""
    return tuple(sorted({t.device for t in tensors}, key=str))


class RngState:
    """The state of torch's random generators: the CPU's and those of the given devices.

    NumPy's and Python's generators are the user's own and are not touched.
    """

    def __init__(self, cpu: torch.Tensor, accelerators: dict[torch.device, torch.Tensor]) -> None:
        self._cpu = cpu
        self._accelerators = accelerators

    @classmethod
    def capture(cls, devices: Iterable[torch.device] = ()) -> RngState:
        """Remember the state as it is now."""
        accelerators = {
            device: torch.get_device_module(device).get_rng_state(*_index(device))
            for device in devices
            if device.type not in ("cpu", "meta")
        }
        return cls(torch.get_rng_state(), accelerators)

    def restore(self) -> None:
        """Put the remembered state back."""
        torch.set_rng_state(self._cpu)
        for device, state in self._accelerators.items():
            torch.get_device_module(device).set_rng_state(state, *_index(device))

    def to_dict(self) -> dict[str, torch.Tensor]:
        """Tensors by device name, which any checkpoint keeps."""
        return {"cpu": self._cpu, **{str(d): state for d, state in self._accelerators.items()}}

    @classmethod
    def from_dict(cls, states: dict[str, torch.Tensor]) -> RngState:
        """Back from :meth:`to_dict`."""
        others = {torch.device(name): s for name, s in states.items() if name != "cpu"}
        return cls(states["cpu"], others)


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
            if buffer is not None
        ]
        unchanged = len(owners) == len(self._owners) and all(
            new[2] is old[2] for new, old in zip(owners, self._owners, strict=True)
        )
        if unchanged and owners:
            torch._foreach_copy_(self._copies, [buffer for _, _, buffer in owners])
        else:
            self._owners = owners
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
