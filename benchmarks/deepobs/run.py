"""DeepOBS: one attempt of a measured rate beside the best of 36 published ones.

    python benchmarks/deepobs/run.py --fashion-mnist DIR --cifar10 DIR --shakespeare DIR [--full]

DIR of Fashion-MNIST holds the four `.gz` files (Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist), that of CIFAR-10 an image folder, that of Shakespeare `input.txt`. Problems whose
data are not named are left out. Without --full runs are as short as `SHORT` says.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from problems import PROBLEMS, Problem  # noqa: E402
from torch.optim import SGD, Adam  # noqa: E402
from yardsticks import MEASURED, Method, at_rate, chosen, command, linear, parsed, run  # noqa: E402

BEST = {
    "quadratic_deep": 0.0398107,
    "quadratic_reshuffled": 0.0398107,
    "fmnist_2c2d": 2.51189e-4,
    "fmnist_vae": 1.58489e-4,
    "cifar10_3c3d": 3.98107e-4,
    "char_rnn": 2.51189e-3,
}
"""Adam's rate that was best of 36, for `char_rnn` of the novel's."""
MOMENTUM = {"quadratic_deep": 2.51189e-3, "quadratic_reshuffled": 2.51189e-3}
"""SGD's with momentum .99, where it was the best of all published figures."""
SHORT = {"fmnist_2c2d": 0.25, "fmnist_vae": 0.05, "cifar10_3c3d": 0.25, "char_rnn": 0.5}
"""Epochs of a short run."""
DATA = {
    "fmnist_2c2d": "fashion_mnist",
    "fmnist_vae": "fashion_mnist",
    "cifar10_3c3d": "cifar10",
    "char_rnn": "shakespeare",
}


def methods(task: Problem) -> list[Method]:
    """Measured AdamW, and what 36 runs found."""
    found = [at_rate(Adam, BEST[task.name], schedule, 36) for schedule in (None, linear)]
    if task.name in MOMENTUM:
        rate = MOMENTUM[task.name]
        found += [at_rate(SGD, rate, schedule, 36, momentum=0.99) for schedule in (None, linear)]
    return [*MEASURED, *found]


def main() -> None:
    parser = command(__doc__.splitlines()[0], HERE)
    parser.add_argument("--epochs", type=float)
    for kind in ("fashion-mnist", "cifar10", "shakespeare"):
        parser.add_argument(f"--{kind}", type=Path)
    options = parsed(parser)
    for name in options.tasks or PROBLEMS:
        folder = getattr(options, DATA[name]) if name in DATA else None
        if name in DATA and folder is None:
            continue
        epochs = options.epochs or (None if options.full else SHORT.get(name))
        task = PROBLEMS[name](folder, epochs, options.steps)
        seeds = options.seeds or range(10 if name not in DATA else 3)
        run(
            options.out,
            [task],
            lambda task: chosen(methods(task), options.methods),
            seeds,
            options.part,
        )


if __name__ == "__main__":
    main()
