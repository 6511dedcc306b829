"""What a run leaves behind, and how to read it again.

A run directory holds `record.jsonl` (append-only, one strict JSON object a line),
`experiment.yaml` (the experiment as it ran), `checkpoint.pt` and `tensorboard/`. The lines of the
record, by their `"kind"`:

- `start`: `schema`, `name`, `label`, `seed`, `time`, `experiment`, `environment`
- `step`: `step`, `epoch`, `train_loss` (mean since the last such line), `effective_lr`, `status`,
  `forwards`, `backwards` (totals), `seconds` (of training)
- `measure`: `step` and the fields of `StepOutcome.to_dict()`
- `evaluation`: `step`, `epoch`, `split`, `loss`, `accuracy`, `forwards`, `backwards`, `seconds`
- `resume`: `step`, `time`, `environment`; earlier lines with a larger step are void
- `end`: `step`, `reason` (`finished`, `non_finite` or `interrupted`), `message`

Numbers that are not finite are written as null, and the line then carries `"non_finite": true`.
"""

from surefoot_lab.records.environment import describe_environment
from surefoot_lab.records.reader import RunRecord, read_run, read_runs
from surefoot_lab.records.writer import RECORD_NAME, SCHEMA, RecordWriter, has_record

__all__ = [
    "RECORD_NAME",
    "SCHEMA",
    "RecordWriter",
    "RunRecord",
    "describe_environment",
    "has_record",
    "read_run",
    "read_runs",
]
