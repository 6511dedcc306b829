"""Lines to and from disk: one strict JSON object a line, appended as they are sampled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surefoot._strict_json import decode, encode
from surefoot.shape.line_sample import LineSample

_SCHEMA = 1
_FIELDS = [f.name for f in dataclasses.fields(LineSample)]


class LineRecords:
    """A file of lines: append while sampling, read later, cut off where a resumed run begins.

    Nothing is pickled; a last line that a crash cut short is ignored by the reader and removed by
    the next append.

    Args:
        path: of the file, usually ``lines.jsonl``; made on the first append, folders as well.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> records = LineRecords(Path(folder.name) / "lines.jsonl")
        >>> records.append(LineSample((0.0, 1.0), ((2.0, 1.0),), (8,), step=3))
        >>> [(line.step, line.losses) for line in records.read()]
        [(3, (2.0, 1.0))]
        >>> folder.cleanup()
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, sample: LineSample) -> None:
        """Write a line; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():  # a crash may have cut its last line short
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        content = {name: encode(getattr(sample, name)) for name in _FIELDS if name != "info"}
        content["info"] = sample.info
        text = json.dumps({"record": "line", "schema": _SCHEMA, **content}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[LineSample]:
        """The lines, one at a time.

        Raises:
            ValueError: if an entry other than a broken last one is no line of a known schema.
        """
        for _, content in self._entries():
            fields = {name: decode(content[name], tuple) for name in _FIELDS if name != "info"}
            yield LineSample(**fields, info=content["info"])

    def read(self) -> list[LineSample]:
        """All lines."""
        return list(self)

    def cut(self, step: int) -> int:
        """Remove all lines from ``step`` on, as a run that resumes there will write them again.

        Returns:
            How many lines were removed.
        """
        lines = [(text, content["step"]) for text, content in self._entries()]
        keep = [text for text, at in lines if at is None or at < step]
        if self.path.exists():
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(keep), encoding="utf-8")
            os.replace(temporary, self.path)
        return len(lines) - len(keep)

    def _entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries that end with a newline, only what was written to the end: as text and parsed."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if text.endswith("\n"):
                    yield text, self._parse(number, text)

    def _parse(self, number: int, text: str) -> dict[str, Any]:
        """An entry as it was written."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content.pop("record") != "line" or content.pop("schema") != _SCHEMA:
                raise ValueError("another kind of record")
            if missing := set(_FIELDS) - set(content):
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path}, line {number} is no sampled line: {error}") from error
        return content
