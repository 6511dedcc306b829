"""What every line-search optimizer must carry through checkpoints, copies and layouts."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from _contract_bench import Bench, Net, batches, loss_of
from torch import Tensor, nn

from surefoot.optim import LineSearchOptimizer

_STEPS = 12


def resumes_to_the_bit(bench: Bench) -> None:
    """Save, load with ``weights_only=True`` into fresh objects, go on: the same bits."""
    for dtype in (torch.float32, torch.bfloat16):
        data = batches(_STEPS, dtype)
        for k in (1, 2, 5):
            model, optimizer = bench.fresh(dtype=dtype)
            bench.walk(model, optimizer, data[:k])
            file = io.BytesIO()
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": torch.get_rng_state(),
                },
                file,
            )
            bench.walk(model, optimizer, data[k:])
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            torch.manual_seed(99)
            fresh = Net(0.3).to(dtype)
            resumed = bench.factory(fresh)
            fresh.load_state_dict(saved["model"])
            resumed.load_state_dict(saved["optimizer"])
            torch.set_rng_state(saved["random"])
            bench.walk(fresh, resumed, data[k:])
            _assert_twins(model, optimizer, fresh, resumed, f"{dtype}, saved after {k} steps")


def survives_copies(bench: Bench) -> None:
    """``copy.deepcopy`` and ``pickle`` of model and optimizer go on as the originals do."""
    data = batches(_STEPS)
    for name, duplicate in (
        ("deepcopy", copy.deepcopy),
        ("pickle", lambda pair: pickle.loads(pickle.dumps(pair))),
    ):
        model, optimizer = bench.fresh()
        bench.walk(model, optimizer, data[:4])
        twin, copied = duplicate((model, optimizer))
        state = torch.get_rng_state()
        bench.walk(model, optimizer, data[4:])
        torch.set_rng_state(state)
        bench.walk(twin, copied, data[4:])
        _assert_twins(model, optimizer, twin, copied, name)


def keeps_plain_state(bench: Bench) -> None:
    """Groups of a checkpoint hold plain values, ``state`` tensors as the parameters are."""
    model, optimizer = bench.fresh()
    bench.walk(model, optimizer, batches(_STEPS))
    for group in optimizer.state_dict()["param_groups"]:
        for key, value in group.items():
            assert key == "params" or _is_plain(value), f"group[{key!r}] is {value!r}"
    for p, entries in optimizer.state.items():
        for key, value in entries.items():
            assert isinstance(value, Tensor), f"state[{key!r}] is {value!r}"
            assert value.shape == p.shape, f"state[{key!r}] has shape {tuple(value.shape)}"
            assert value.dtype == p.dtype, f"state[{key!r}] is {value.dtype}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, dict)):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or type(value) in (bool, int, float, str)


def does_not_mind_zero_grad(bench: Bench) -> None:
    """The user's ``zero_grad`` between steps, of either kind, changes nothing."""
    ends = []
    for clear in (None, True, False):
        model, optimizer = bench.fresh()
        for batch in batches(_STEPS):
            optimizer.step(loss_of(model, batch))
            if clear is not None:
                optimizer.zero_grad(set_to_none=clear)
        ends.append((model, optimizer))
    for model, optimizer in ends[1:]:
        _assert_twins(*ends[0], model, optimizer, "zero_grad")


def does_not_mind_layouts(bench: Bench) -> None:
    """channels_last and transposed weights take the same steps, and keep their layout."""
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = bench.net(dtype=torch.float64, dropout=0.0).to(memory_format=layout)
        if layout is torch.channels_last:
            weight = model.head.weight.detach()
            model.head.weight = nn.Parameter(weight.t().contiguous().t())
        optimizer = bench.factory(model)
        data = [(x.to(memory_format=layout), y) for x, y in batches(_STEPS, torch.float64)]
        bench.walk(model, optimizer, data)
        assert model.conv.weight.is_contiguous(memory_format=layout)
        ends.append([p.detach() for p in model.parameters()])
    for p, q in zip(*ends, strict=True):
        # curvatures are differences of losses, so their rounding is what can be asked for
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)


def takes_groups_later(bench: Bench) -> None:
    """``add_param_group`` in the middle of a run: the new group moves."""
    model = bench.net()
    optimizer = bench.factory(list(model.conv.parameters()), model=model)
    bench.walk(model, optimizer, batches(4))
    before = model.head.weight.detach().clone()
    optimizer.add_param_group({"params": list(model.head.parameters()), "lr": 0.5})
    bench.walk(model, optimizer, batches(_STEPS + 8))
    assert not torch.equal(before, model.head.weight)


def _assert_twins(
    model: nn.Module,
    optimizer: LineSearchOptimizer,
    twin: nn.Module,
    other: LineSearchOptimizer,
    where: str,
) -> None:
    ours, theirs = model.state_dict(), twin.state_dict()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), f"{where}: {name} differs"
    a, b = optimizer.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"], f"{where}: the param groups differ"
    assert a["state"].keys() == b["state"].keys(), f"{where}: state of other parameters"
    for i, entries in a["state"].items():
        assert entries.keys() == b["state"][i].keys(), f"{where}: state {entries.keys()}"
        for key, value in entries.items():
            assert torch.equal(value, b["state"][i][key]), f"{where}: state {key} differs"


STATE_CONTRACTS = (
    resumes_to_the_bit,
    survives_copies,
    keeps_plain_state,
    does_not_mind_zero_grad,
    does_not_mind_layouts,
    takes_groups_later,
)
