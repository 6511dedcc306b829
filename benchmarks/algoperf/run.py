"""Runs the submission on AlgoPerf's `mnist` workload, by AlgoPerf's own runner.

    git clone https://github.com/mlcommons/algorithmic-efficiency DIR   # and its requirements: jax, tensorflow, flax, ...
    python benchmarks/algoperf/run.py --repository DIR --fashion-mnist DIR [--steps 2000] [--seed 0]

Digits are replaced by Fashion-MNIST, from its four files, which makes the target of 97 % out of reach: this is a test of the
interface and no result. Appends validation and test accuracy to results.jsonl.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from yardsticks import told  # noqa: E402


def _part(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for kind, skip in (("images-idx3", 16), ("labels-idx1", 8)):
        with gzip.open(folder / f"{name}-{kind}-ubyte.gz") as file:
            found.append(np.frombuffer(file.read()[skip:], dtype=np.uint8))
    return found[0].reshape(-1, 28, 28, 1), found[1].astype(np.int64)


def _replace_data(folder: Path) -> None:
    """What tensorflow_datasets would load, from files."""
    with suppress(ImportError):
        import triton  # noqa: F401 (loaded after tensorflow it ends the process)
    import tensorflow as tf
    import tensorflow_datasets as tfds

    parts = {"train": _part(folder, "train"), "test": _part(folder, "t10k")}

    def load(name: str, split: str, **_: Any) -> Any:
        kind, _, rest = split.partition("[")
        start, _, end = rest.rstrip("]").partition(":")
        rows = slice(int(start or 0), int(end) if end else None)
        images, labels = (x[rows] for x in parts[kind])
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    tfds.load = load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    options = parser.parse_args()
    out, here = options.out.resolve(), told()
    sys.path.insert(0, str(options.repository.resolve()))
    _replace_data(options.fashion_mnist)
    os.chdir(HERE)  # the runner imports the submission by its path
    sys.path.insert(0, str(HERE))
    import submission_runner
    from absl import flags

    folder = tempfile.mkdtemp()
    flags.FLAGS(
        [
            "run",
            "--framework=pytorch",
            "--workload=mnist",
            "--submission_path=submission.py",
            "--tuning_ruleset=self",
            f"--experiment_dir={folder}",
            "--experiment_name=measured",
            f"--data_dir={folder}",
            f"--max_global_steps={options.steps}",
            f"--rng_seed={options.seed}",
            "--save_checkpoints=True",
            "--overwrite=True",
        ]
    )
    kept: list[dict[str, Any]] = []
    plain = submission_runner.train_once

    def watched(*args: Any, **kwargs: Any) -> Any:
        timing, metrics = plain(*args, **kwargs)
        kept.extend(entry for _, entry in metrics["eval_results"])
        return timing, metrics

    submission_runner.train_once = watched
    submission_runner.main(None)
    last = {k: float(v) for k, v in kept[-1].items() if k.endswith(("/accuracy", "/loss"))}
    line = {"task": "algoperf_mnist", "seed": options.seed, "steps": options.steps, **last, **here}
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(line)


if __name__ == "__main__":
    main()
