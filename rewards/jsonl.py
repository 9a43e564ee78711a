"""JSON Lines on disk: read with useful errors, append so that a kill loses at most the row being written."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from laconic.rewards.errors import DataError

STDIN = Path("-")
"""The path that is read from standard input."""
_GZIP = b"\x1f\x8b"


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield one object per non-empty line of a JSON Lines file.

    Raises:
        DataError: the file does not exist, or a line is not a JSON object (named by number).
    """
    return (row for _, row in numbered_rows(path))


def numbered_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_jsonl`, with the number of each row's line, from 1."""
    path = Path(path)
    with _opened(path) as lines:
        for number, read in enumerate(lines, start=1):
            line = _first_line(path, read) if number == 1 else read
            if line.strip():
                yield number, _parse(f"{named(path)}:{number}", line)


def named(path: Path) -> Path:
    """The path as messages name it."""
    return Path("stdin") if path == STDIN else path


def _opened(path: Path) -> AbstractContextManager[BinaryIO]:
    """A file, a pipe or standard input, line by line."""
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)
    if not path.exists():
        raise DataError(f"{path}: no such file", cure="check the path; it is relative to the current folder")
    if path.is_dir():
        raise DataError(f"{path}: is a folder", cure="name the JSON Lines file in it")
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", cure="name a file that you may read") from None


def _first_line(path: Path, line: bytes) -> bytes:
    if line.startswith(_GZIP):
        raise DataError(f"{named(path)}: is compressed", cure="unpack it first, with gunzip")
    return line.removeprefix(codecs.BOM_UTF8)


def _parse(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg})", cure="one JSON object per line") from None
    except UnicodeDecodeError as error:
        wrong = f"not UTF-8 (byte {error.object[error.start]:#04x} at {error.start})"
        raise DataError(f"{where}: {wrong}", cure="save the file as UTF-8") from None
    except (RecursionError, ValueError) as error:
        # Brackets in brackets in brackets, or a number of thousands of digits.
        why = "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
        raise DataError(f"{where}: {why}", cure="one plain JSON object per line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__} instead of an object", cure="one JSON object per line")
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
