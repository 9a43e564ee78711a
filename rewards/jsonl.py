"""JSON Lines on disk: read with useful errors, append so that a kill loses at most the row being written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from laconic.rewards.errors import DataError


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield one object per non-empty line of a JSON Lines file.

    Raises:
        DataError: the file does not exist, or a line is not a JSON object (named by number).
    """
    return (row for _, row in numbered_rows(path))


def numbered_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_jsonl`, with the number of each row's line, from 1."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file", cure="check the path; it is relative to the current folder")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse(path, number, line)


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON ({error.msg})", cure="one JSON object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: {type(row).__name__} instead of an object", cure="one JSON object per line")
    return row


def dumps(row: dict[str, Any]) -> str:
    """The one-line form that every file of Laconic uses; NaN is refused, since JSON has none."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> int:
    """Write rows atomically; returns how many."""
    lines = [dumps(row) for row in rows]
    write_atomic(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


class JsonlAppender:
    """Append rows to a file that an earlier, killed process may have left with a torn last line.

    The torn line is cut off on opening, so that every line that stays is whole; `flush` makes what was appended
    survive a kill.

        with JsonlAppender(path) as out:
            out.append({"problem_id": "a", "sample": 0})
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> JsonlAppender:
        _cut_torn_line(self.path)
        self._out = self.path.open("a", encoding="utf-8")
        return self

    def append(self, row: dict[str, Any]) -> None:
        """Add one row to the buffer; see `flush`."""
        self._out.write(dumps(row) + "\n")

    def flush(self) -> None:
        """Hand the rows to the operating system and the disk."""
        self._out.flush()
        os.fsync(self._out.fileno())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._out.close()


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as out:
        content = out.read()
        out.truncate(content.rfind(b"\n") + 1)
