"""Losses as loops compute them: replayed at moved weights to the bit, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot.replay import Recorder, is_measuring

KINDS: dict[str, Callable[[], tuple[nn.Module, Callable[[], Tensor]]]] = {}
# without gradients torch may use other kernels
ROUNDED = {"compiled criterion", "compiled model and criterion", "an LSTM with its state"}
REFUSED: dict[str, tuple[Callable[[], tuple[nn.Module, Callable[[], Tensor]]], str]] = {}


def kind(name: str) -> Callable[[Any], Any]:
    """A loss that is replayed: the model, and what the loop does from forward to loss."""

    def add(make: Any) -> Any:
        KINDS[name] = make
        return make

    return add


def refused(name: str, because: str) -> Callable[[Any], Any]:
    def add(make: Any) -> Any:
        REFUSED[name] = (make, because)
        return make

    return add


X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4
Z = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


HELD: dict[str, Tensor] = {}


def held(name: str, x: Tensor) -> Tensor:
    """What the gradient takes for a constant: as it was when the loss was differentiated."""
    if torch.is_grad_enabled() and not is_measuring():
        HELD[name] = x
    return HELD[name]


def mlp(out: int = 4, norm: bool = False) -> nn.Sequential:
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(8, 16), *middle, nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, out))


@kind("cross-entropy")
def _() -> Any:
    m = mlp()
    return m, lambda: F.cross_entropy(m(X), Y)


@kind("cross-entropy, BatchNorm and dropout")
def _() -> Any:
    m = mlp(norm=True)
    return m, lambda: F.cross_entropy(m(X), Y)


@kind("label smoothing, class weights, ignored labels")
def _() -> Any:
    m, weights, labels = mlp(), torch.rand(4) + 0.5, Y.clone()
    labels[::5] = -100
    return m, lambda: F.cross_entropy(m(X), labels, weights, label_smoothing=0.1)


@kind("squared error")
def _() -> Any:
    m = mlp()
    return m, lambda: F.mse_loss(m(X), Z)


@kind("written by hand")
def _() -> Any:
    m = mlp()
    return m, lambda: ((m(X) - Z).abs().clamp(max=1.0) ** 1.5).sum(-1).mean()


@kind("masks and indices")
def _() -> Any:
    m, mask = mlp(), torch.arange(16) % 3 > 0

    def loss() -> Tensor:
        out = m(X)[mask]
        return -out.log_softmax(-1)[torch.arange(len(out)), Y[mask]].mean()

    return m, loss


@kind("in place on outputs and labels")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        labels = Y.clone()
        labels[:3] = -100
        out = m(X)
        out.div_(2.0)
        out[:, 0].mul_(0.5)
        return F.cross_entropy(out, labels)

    return m, loss


@kind("a number read in Python decides")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        out = m(X)
        return F.cross_entropy(out, Y) * (2.0 if out.mean().item() < 1e6 else 1.0)

    return m, loss


@kind("bf16 autocast around all of it")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(m(X), Y)

    return m, loss


@kind("bf16 autocast around the model")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = m(X)
        return F.mse_loss(out.float(), Z)

    return m, loss


@kind("a quarter, for accumulation")
def _() -> Any:
    m = mlp()
    return m, lambda: F.cross_entropy(m(X), Y) / 4


@kind("scaled by a GradScaler")
def _() -> Any:
    m, scaler = mlp(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    return m, lambda: scaler.scale(F.cross_entropy(m(X), Y))


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return {"x": self.decoder(z), "mean": mean, "log_var": log_var}


@kind("a VAE's dictionary")
def _() -> Any:
    m = Vae()

    def loss() -> Tensor:
        out = m(X)
        kl = -0.5 * (1 + out["log_var"] - out["mean"] ** 2 - out["log_var"].exp()).sum()
        return F.mse_loss(out["x"], X, reduction="sum") + kl

    return m, loss


@kind("a VAE drawn in the loop, from parts of the model")
def _() -> Any:
    m = Vae()

    def loss() -> Tensor:
        mean, log_var = m.encoder(X).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return F.mse_loss(m.decoder(z), X) + 0.1 * (mean**2 + log_var.exp() - log_var).mean()

    return m, loss


@kind("CTC")
def _() -> Any:
    m = nn.Linear(8, 5)
    x = torch.randn(12, 2, 8)
    targets = torch.tensor([[1, 2, 3], [2, 4, 1]])
    lengths = torch.tensor([12, 12]), torch.tensor([3, 3])
    return m, lambda: F.ctc_loss(m(x).log_softmax(-1), targets, *lengths)


@dataclasses.dataclass
class Output:
    loss: Tensor
    logits: Tensor


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, labels: Tensor) -> Output:
        logits = self.net(x)
        return Output(F.cross_entropy(logits, labels), logits)


@kind("the model's output holds the loss")
def _() -> Any:
    m = WithLoss()
    return m, lambda: m(X, labels=Y).loss


@kind("several forwards in one loss")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        a, b = m(X), m(X + 0.1)
        return F.cross_entropy(a, Y) + (a.softmax(-1) - b.softmax(-1)).pow(2).mean()

    return m, loss


@kind("one forward's output is another's input")
def _() -> Any:
    m = nn.Linear(8, 8)
    return m, lambda: F.mse_loss(m(torch.tanh(m(X))), X)


@kind("siamese, triplet")
def _() -> Any:
    m = mlp()
    return m, lambda: F.triplet_margin_loss(m(X), m(X.roll(1, 0)), m(X.roll(5, 0)))


@kind("contrastive with a memory")
def _() -> Any:
    m, bank = mlp(), F.normalize(torch.randn(32, 4), dim=-1)

    def loss() -> Tensor:
        memory = bank.clone()
        z = F.normalize(m(X), dim=-1)
        memory[:16] = z.detach()  # as a queue takes its keys
        logits = torch.cat([(z * z.roll(1, 0)).sum(-1, keepdim=True), z @ memory[16:].T], 1)
        return F.cross_entropy(logits / 0.1, torch.zeros(16, dtype=torch.long))

    return m, loss


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 1, 1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        h = self.trunk(images).relu()
        boxes = self.boxes(h).flatten(2).transpose(1, 2)
        scores = self.scores(h).flatten(1)
        return [{"boxes": b, "scores": s} for b, s in zip(boxes, scores, strict=True)]


@kind("detection: boxes matched to the nearest")
def _() -> Any:
    m, images = Detector(), torch.randn(2, 3, 6, 6)
    truth = torch.rand(2, 3, 4)

    def loss() -> Tensor:
        total = torch.zeros(())
        for i, (out, true) in enumerate(zip(m(images), truth, strict=True)):
            nearest = held(f"nearest {i}", torch.cdist(true, out["boxes"].detach()).argmin(1))
            wanted = torch.zeros_like(out["scores"]).index_fill(0, nearest, 1.0)
            total = total + F.smooth_l1_loss(out["boxes"][nearest], true)
            total = total + F.binary_cross_entropy_with_logits(out["scores"], wanted)
        return total

    return m, loss


@kind("GAN: the generator, through the discriminator")
def _() -> Any:
    m, other = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    ones = torch.ones(16, 1)
    return m, lambda: F.binary_cross_entropy_with_logits(other(m(Z)), ones)


@kind("GAN: the discriminator, on real and made")
def _() -> Any:
    other, m = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss() -> Tensor:
        real, made = m(X), m(other(Z).detach())
        return F.softplus(-real).mean() + F.softplus(made).mean()

    return m, loss


@kind("behind an encoder that another optimizer trains")
def _() -> Any:
    other, m = nn.Linear(8, 8), mlp()
    return m, lambda: F.cross_entropy(m(other(X)), Y)


@kind("distillation from a frozen teacher")
def _() -> Any:
    m, teacher = mlp(), mlp().eval()

    def loss() -> Tensor:
        with torch.no_grad():
            soft = teacher(X).softmax(-1)
        return F.kl_div(m(X).log_softmax(-1), soft, reduction="batchmean")

    return m, loss


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        h = self.body(x).relu()
        return torch.distributions.Categorical(logits=self.actor(h)), self.critic(h).squeeze(-1)


@kind("actor and critic, a distribution as output")
def _() -> Any:
    m, returns = ActorCritic(), torch.randn(16)

    def loss() -> Tensor:
        policy, value = m(X)
        advantage = held("advantage", returns - value.detach())
        gain = (policy.log_prob(Y) * advantage).mean() + 0.01 * policy.entropy().mean()
        return F.smooth_l1_loss(value, returns) - gain

    return m, loss


@kind("divided by its own detached mean")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        error = (m(X) - Z).pow(2)
        return (error / held("mean", error.detach().mean())).mean()

    return m, loss


@kind("an action that is drawn")
def _() -> Any:
    m, gain = ActorCritic(), torch.randn(16)

    def loss() -> Tensor:
        policy, _ = m(X)
        action = held("action", policy.sample())
        return -(policy.log_prob(action) * gain).mean()

    return m, loss


@kind("a penalty on the weights")
def _() -> Any:
    m = mlp()
    return m, lambda: F.cross_entropy(m(X), Y) + 1e-2 * sum(p.pow(2).sum() for p in m.parameters())


@kind("two losses differentiated one after the other")
def _() -> Any:
    m = nn.Linear(8, 4)

    def loss() -> Tensor:
        out = m(X)
        first = F.cross_entropy(out, Y)
        if torch.is_grad_enabled() and not is_measuring():
            first.backward(retain_graph=True)
            return F.mse_loss(out, Z)
        return first + F.mse_loss(out, Z)

    return m, loss


@kind("a function transformed by vmap")
def _() -> Any:
    m = nn.Linear(8, 4)
    return m, lambda: torch.func.vmap(lambda o, z: ((o - z) ** 2).sum())(m(X), Z).mean()


class OwnCriterion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(out, target)
        return (out - target).pow(2).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        out, target = ctx.saved_tensors
        return grad * 2.0 * (out - target) / out.numel(), None


@kind("a criterion with its own backward pass")
def _() -> Any:
    m = mlp()
    return m, lambda: OwnCriterion.apply(m(X), Z)


@kind("adaptive softmax, its weights beside the model's")
def _() -> Any:
    m = nn.ModuleDict(
        {
            "body": nn.Linear(8, 8),
            "head": nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0),
        }
    )
    return m, lambda: m["head"](m["body"](X).relu(), Y * 4).loss


@kind("an LSTM with its state")
def _() -> Any:
    m = nn.LSTM(8, 4, batch_first=True)
    x, state = torch.randn(3, 5, 8), (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    return m, lambda: m(x, state)[0].pow(2).mean()


@kind("checkpointed activations")
def _() -> Any:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = mlp(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            from torch.utils.checkpoint import checkpoint

            return self.last(checkpoint(self.first, x, use_reentrant=False))

    m = Checkpointed()
    return m, lambda: F.cross_entropy(m(X), Y)


@kind("forces: the model differentiates its energy")
def _() -> Any:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    m = Forces()
    return m, lambda: F.mse_loss(m(X), X.sin())


@kind("compiled model")
def _() -> Any:
    m = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    run = torch.compile(m, backend="aot_eager")
    return run, lambda: F.cross_entropy(run(X), Y)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@kind("compiled model, of which the plain one is known")
def _() -> Any:
    m = Plain()
    run = torch.compile(m, backend="aot_eager")
    return m, lambda: F.cross_entropy(run(X), Y)


@kind("compiled in place")
def _() -> Any:
    m = Plain()
    m.compile(backend="aot_eager")
    return m, lambda: F.cross_entropy(m(X), Y)


@kind("compiled criterion")
def _() -> Any:
    m = nn.Linear(8, 4)
    criterion = torch.compile(lambda o: F.cross_entropy(o * 1.5, Y), backend="aot_eager")
    return m, lambda: criterion(m(X))


@refused("a gradient penalty in the loop", "differentiation inside the loop")
def _() -> Any:
    m, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)), X.clone().requires_grad_()

    def loss() -> Tensor:
        out = m(x)
        slope = torch.autograd.grad(out.sum(), x, create_graph=True)[0]
        return out.mean() + (slope.norm(dim=1) - 1).pow(2).mean()

    return m, loss


@refused("physics: derivatives of the output", "differentiation inside the loop")
def _() -> Any:
    m, x = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), torch.rand(9, 1)

    def loss() -> Tensor:
        at = x.clone().requires_grad_()
        u = m(at)
        return (torch.autograd.grad(u.sum(), at, create_graph=True)[0] + u).pow(2).mean()

    return m, loss


class ThroughNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.save_for_backward(out)
        return torch.from_numpy((out.detach().numpy() ** 2).mean(keepdims=False).reshape(1))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return grad * 2.0 * out / out.numel()


@refused("a detour through NumPy", "left torch")
def _() -> Any:
    m = mlp()
    return m, lambda: ThroughNumpy.apply(m(X))


@refused("a detour through NumPy beside an ordinary term", "out of sight")
def _() -> Any:
    m = mlp()

    def loss() -> Tensor:
        out = m(X)
        return F.cross_entropy(out, Y) + ThroughNumpy.apply(out)

    return m, loss


@refused("a term that the model keeps to itself", "out of sight")
def _() -> Any:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            self.balance = out.pow(2).mean()
            return out

    m = Hidden()
    return m, lambda: F.cross_entropy(m(X), Y) + m.balance


@refused("no forward pass of the model", "no forward pass")
def _() -> Any:
    m = mlp()
    return m, lambda: sum(p.pow(2).sum() for p in m.parameters())  # type: ignore[return-value]


def record(m: nn.Module, loss: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    recorder = Recorder(m)
    recorder.arm(list(m.parameters()))
    loss().backward()
    tape = recorder.finish()
    return tape, tape.value if tape is not None else torch.tensor(0.0)


def true_loss(
    loss: Callable[[], Tensor], random: Tensor, buffers: dict[str, Tensor], m: Any
) -> Any:
    torch.set_rng_state(random)
    with torch.no_grad():
        for name, buffer in m.named_buffers():
            buffer.copy_(buffers[name])
    try:
        with torch.no_grad():
            return float(loss())
    except RuntimeError:
        return float(loss().detach())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler, asking for it
@pytest.mark.parametrize("name", KINDS)
def test_the_replayed_loss_is_the_loss(name: str) -> None:
    torch.manual_seed(0)
    m, loss = KINDS[name]()
    params = list(m.parameters())
    if "compiled" in name:
        loss().backward()
    random = torch.get_rng_state()
    buffers = {name: b.clone() for name, b in m.named_buffers()}
    tape, value = record(m, loss)
    assert tape is not None
    assert tape.problem() is None
    after = torch.get_rng_state()
    stays = {name: b.clone() for name, b in m.named_buffers()}
    grads = [None if p.grad is None else p.grad.clone() for p in params]

    def nearly(loss: float) -> Any:
        return pytest.approx(loss, rel=1e-6) if name in ROUNDED else loss

    assert tape.replay() == nearly(float(value))
    with torch.no_grad():
        for p in params:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    replayed = [tape.replay(), tape.replay()]

    assert replayed[0] == replayed[1]
    assert replayed[0] != float(value)
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(b, stays[name]) for name, b in m.named_buffers())
    for p, grad in zip(params, grads, strict=True):
        assert grad is None if p.grad is None else torch.equal(p.grad, grad)
    truth = true_loss(loss, random, buffers, m)
    assert replayed[0] == nearly(truth)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused(name: str) -> None:
    torch.manual_seed(0)
    make, because = REFUSED[name]
    m, loss = make()
    tape, _ = record(m, loss)
    problem = "no forward pass of the model" if tape is None else tape.problem()
    assert problem is not None
    assert because in problem
