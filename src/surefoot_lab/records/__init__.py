"""What a run leaves behind, and how to read it again.

A run directory holds `record.jsonl` (one strict JSON object a line, no step twice),
`experiment.yaml` (the experiment as it ran), `checkpoint.pt` and `tensorboard/`. The lines of the
record, by their `"kind"`:

- `start`: `schema`, `name`, `label`, `seed`, `time`, `experiment`, `environment`, `node`
  (`host`, and `ray` on a cluster), and for a trial `sweep` (its `method` and `cell`)
- `step`: `step`, `epoch`, `train_loss` (mean since the last such line), `effective_lr`, `status`,
  `forwards`, `backwards` (totals), `seconds` (of training)
- `measure`: `step` and the fields of `StepOutcome.to_dict()`
- `evaluation`: `step`, `epoch`, `split`, `loss`, `accuracy`, `forwards`, `backwards`, `seconds`
- `resume`: `step`, `time`, `environment`, `node`; lines with a larger step were cut off before it
- `end`: `step`, `reason`, `message`. `finished`; `non_finite`: the loss was; `interrupted`: by the
  user; `failed`: an error, which is the message; `stopped`: given up early by a sweep

Numbers that are not finite are written as null, and the line then carries `"non_finite": true`.
"""

from surefoot_lab.records.environment import describe_environment
from surefoot_lab.records.reader import RunRecord, read_run, read_runs
from surefoot_lab.records.writer import (
    RECORD_NAME,
    RECORDED,
    TRACEBACK_NAME,
    RecordWriter,
    has_record,
)

__all__ = [
    "RECORDED",
    "RECORD_NAME",
    "TRACEBACK_NAME",
    "RecordWriter",
    "RunRecord",
    "describe_environment",
    "has_record",
    "read_run",
    "read_runs",
]
