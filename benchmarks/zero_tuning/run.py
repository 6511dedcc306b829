"""Who needs no tuning? Trains every task with every method; `score.py` makes the table.

    python benchmarks/zero_tuning/run.py --cifar10 data/cifar10 --fashion-mnist DIR --workers 2
    python benchmarks/zero_tuning/score.py runs/zero-tuning
    surefoot report runs/zero-tuning

Every run is an ordinary run of the lab, one thread each. What is finished stays, so the command may
be stopped and given again. The grid runs with seed 0; its best cells, as many as `--best`, with the
other seeds, too: their best mean is the ceiling. `--ablation` runs MeasuredLR with one of its parts
taken away or exchanged at a time, which `score.py --ablation` compares with the whole.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks.rivals
sys.path.insert(0, str(Path(__file__).parent))
