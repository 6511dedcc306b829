"""What a range test costs, side by side with other finders, in turns on one net.

    python benchmarks/range_test.py --images data/cifar10 [--rounds 9] [--validation]

Each round runs every finder once, in rotating order, from the same weights on the same batches;
the table gives the median processor time relative to torch-lr-finder's in the same round, and the
rate each suggests. Finders that are not installed are left out (`pip install torch-lr-finder fastai
lightning`, best in an environment of their own). With --validation every finder that can, also
evaluates the 10,000 test images: torch-lr-finder at every iteration, surefoot with its defaults
(every 2nd iteration, a fifth of the images) and, as the reference for its suggestion, in full.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from surefoot.lr_range import NoSuggestion, RangeCurve, range_test
from surefoot_lab.config import DataConfig
from surefoot_lab.data.folder import image_folder
from surefoot_lab.models.cifar import cifar_resnet

START, END, ITERATIONS = 1e-5, 10.0, 100
LOSS = nn.CrossEntropyLoss()
Answer = tuple[float, str]  # processor seconds, and what it suggests


class Images(Dataset):
    """Images in memory, whole batches at once, so that loading does not hide the finders."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.x = (images.float() / 255 - 0.47) / 0.25
        self.y = labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.y[i]

    def __getitems__(self, places: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.x[places], self.y[places], strict=True))


def timed(run: Callable[[], str]) -> Answer:
    """Processor seconds and answer of a run; what it prints, draws or warns is not shown."""
    # of this process alone: on a machine that does other things as well, the clock on the wall
    # scatters by far more than the finders differ
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        answer = run()
    return time.process_time() - began, answer


class Bench:
    """One net, its batches, and every finder as a method."""

    def __init__(self, images: Path, batch: int) -> None:
        splits = image_folder(DataConfig(name="imagefolder", root=str(images), validation=100))
        torch.manual_seed(0)
        self.net = cifar_resnet(8, widths=(8, 16, 32))
        train = Images(splits.train.inputs, splits.train.labels)
        self.train = DataLoader(train, batch_size=batch, shuffle=True, drop_last=True)
        self.test = DataLoader(Images(splits.test.inputs, splits.test.labels), batch_size=250)
        self.net(next(iter(self.train))[0])

    def fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A copy of the net and its optimizer, the same each time."""
        torch.manual_seed(1)
        net = copy.deepcopy(self.net).train()
        return net, torch.optim.SGD(net.parameters(), lr=START, momentum=0.9, weight_decay=5e-4)

    def plain(self) -> str:
        """The same number of SGD steps and nothing else: the floor."""
        net, optimizer = self.fresh()
        batches = iter(self.train)
        for _ in range(ITERATIONS):
            x, y = next(batches)
            optimizer.zero_grad()
            loss = LOSS(net(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
        return ""

    def surefoot(self) -> str:
        """Without a validation set."""
        return answer_of(self._surefoot())

    def surefoot_validated(self) -> str:
        """With its defaults: every 2nd iteration, a fifth of the images."""
        return answer_of(self._surefoot(val_loader=self.test))

    def surefoot_fully_validated(self) -> str:
        """Every iteration, all images: the reference."""
        return answer_of(self._surefoot(val_loader=self.test, val_every=1, val_share=1.0))

    def _surefoot(self, **options: object) -> RangeCurve:
        net, optimizer = self.fresh()
        # no early stop: every finder makes the same number of iterations
        return range_test(
            net,
            optimizer,
            self.train,
            LOSS,
            start_lr=START,
            end_lr=END,
            num_iter=ITERATIONS,
            diverge_threshold=None,
            **options,  # type: ignore[arg-type]
        )

    def torch_lr_finder(self, val_loader: DataLoader | None = None) -> str:
        """Its range test, reset and suggestion."""
        from torch_lr_finder import LRFinder

        net, optimizer = self.fresh()
        finder = LRFinder(net, optimizer, LOSS)
        finder.range_test(
            self.train, val_loader, start_lr=START, end_lr=END, num_iter=ITERATIONS, diverge_th=1e30
        )
        finder.reset()
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        axes, rate = finder.plot(ax=pyplot.subplots()[1])
        pyplot.close(axes.figure)
        return f"{rate:.2g}"

    def torch_lr_finder_validated(self) -> str:
        """With all images at every iteration; it knows no other way."""
        return self.torch_lr_finder(self.test)

    def fastai(self) -> str:
        """Its Learner.lr_find."""
        from fastai.callback import schedule
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.optimizer import OptimWrapper

        net, _ = self.fresh()
        learner = Learner(
            DataLoaders(self.train, self.train),
            net,
            loss_func=LOSS,
            opt_func=lambda params, **_: OptimWrapper(
                params, torch.optim.SGD, lr=START, momentum=0.9, weight_decay=5e-4
            ),
        )
        found = learner.lr_find(
            START,
            END,
            ITERATIONS,
            stop_div=False,
            show_plot=False,
            suggest_funcs=(schedule.valley, schedule.steep),
        )
        return f"{found.valley:.2g} (valley), {found.steep:.2g} (steep)"

    def lightning(self) -> str:
        """Its Tuner.lr_find, which saves and loads a checkpoint on disk."""
        import logging

        import lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        net, _ = self.fresh()

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.lr = net, START

            def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
                return LOSS(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(
                    self.net.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4
                )

        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        finder = lightning.pytorch.tuner.Tuner(trainer).lr_find(
            Module(),
            self.train,
            min_lr=START,
            max_lr=END,
            num_training=ITERATIONS,
            early_stop_threshold=None,
        )
        return f"{finder.suggestion():.2g}"


def answer_of(curve: RangeCurve) -> str:
    try:
        return f"{curve.suggestion():.2g}"
    except NoSuggestion as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--validation", action="store_true", help="with a validation set")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bench = Bench(options.images, options.batch)
    runs: dict[str, Callable[[], str]]
    if options.validation:
        runs = {
            "torch-lr-finder": bench.torch_lr_finder_validated,
            "surefoot": bench.surefoot_validated,
            "surefoot, every iteration, all images": bench.surefoot_fully_validated,
        }
    else:
        runs = {
            "torch-lr-finder": bench.torch_lr_finder,
            "surefoot": bench.surefoot,
            "plain SGD steps": bench.plain,
            "fastai": bench.fastai,
            "Lightning": bench.lightning,
        }
    report(in_turns(runs, options.rounds, warm_up=not options.validation))


def in_turns(
    runs: dict[str, Callable[[], str]], rounds: int, warm_up: bool
) -> dict[str, list[Answer]]:
    """Every run once a round, in rotating order; those that are not installed are dropped."""
    if warm_up:
        for name in list(runs):
            try:
                timed(runs[name])
            except ImportError as error:
                print(f"left out: {name} ({error})")
                del runs[name]
    times: dict[str, list[Answer]] = {name: [] for name in runs}
    for r in range(rounds):
        names = list(runs)
        for name in names[r % len(names) :] + names[: r % len(names)]:
            times[name].append(timed(runs[name]))
    return times


def report(times: dict[str, list[Answer]]) -> None:
    base = [seconds for seconds, _ in times["torch-lr-finder"]]
    print(
        f"{ITERATIONS} iterations from {START:g} to {END:g}, {len(base)} rounds in turns, one "
        f"thread, torch {torch.__version__}, {platform.processor() or platform.machine()}\n"
    )
    print(
        "| finder | relative time: median (least to most) | processor seconds, median | suggests |"
    )
    print("|---|---|---|---|")
    for name, answers in times.items():
        ratios = sorted(s / b for (s, _), b in zip(answers, base, strict=True))
        seconds = statistics.median(s for s, _ in answers)
        print(
            f"| {name} | {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) "
            f"| {seconds:.2f} | {answers[-1][1]} |"
        )


if __name__ == "__main__":
    main()
