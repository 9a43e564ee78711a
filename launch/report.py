"""The report of a run: built by its own process when it is out of date, and summed up on the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from laconic.eval.table import bracket, with_error
from laconic.launch.process import run_process
from laconic.launch.text import table
from laconic.rewards.errors import DataError

LOG = ".report.log"


def build_report(run_dir: Path, folders: Sequence[str] = (), *, env: Mapping[str, str] = os.environ) -> Path:
    """Write `report/` of a run folder.

    Args:
        run_dir: `runs/<recipe>`.
        folders: Names of the eval stage folders to use; by default the newest complete one of each name.
        env: Environment of the process that writes it.

    Returns:
        The path of `report.html`.

    Raises:
        DataError: it could not be written; the message is the process's own.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder", cure="laconic list runs shows them")
    argv = [sys.executable, "-m", "laconic.eval.report", str(run_dir), *folders]
    log = run_dir / LOG
    log.unlink(missing_ok=True)
    if run_process(argv, log=log, env=env, stdout=subprocess.DEVNULL):
        said = log.read_text(errors="replace").strip().removeprefix("error: ")
        raise DataError(f"the report of {run_dir} could not be written: {said or 'no reason was given'}")
    log.unlink()
    return run_dir / "report" / "report.html"


def is_fresh(run_dir: Path, hashes: set[str]) -> bool:
    """Whether the report is about exactly the eval stages of these hashes."""
    report = run_dir / "report"
    if not (report / "report.html").is_file() or not (report / "results.json").is_file():
        return False
    stages = read_results(run_dir)["provenance"].get("stages", [])
    return {stage["hash"] for stage in stages if stage["kind"] == "eval"} == hashes


def read_results(run_dir: Path) -> dict[str, Any]:
    """The report's `results.json`."""
    return json.loads((run_dir / "report" / "results.json").read_text(encoding="utf-8"))


def headline_table(results: Mapping[str, Any]) -> Table:
    """The comparison that the report opens with: each model's accuracy and tokens, over all tasks of an evaluation."""
    tasks = {row["eval"]: row["task"] for row in reversed(results["rows"])}  # an evaluation's first row is its headline
    rows = [row for row in results["rows"] if row["task"] == tasks[row["eval"]]]
    pairs = {(pair["eval"], pair["task"], pair["model"]): pair for pair in results["paired"]}
    several = len(tasks) > 1
    cells = [
        [
            *([row["eval"]] if several else []),
            row["model"],
            with_error(row, "accuracy", 100),
            with_error(row, "tokens"),
            *_compared(pairs.get((row["eval"], row["task"], row["model"]))),
        ]
        for row in rows
    ]
    header = ["model", "accuracy, %", "tokens", "tokens vs baseline", "accuracy vs baseline"]
    first = len(["eval"] if several else [])
    return table([*["eval"][:first], *header], cells, right=range(first + 1, first + 5))


def _compared(pair: Mapping[str, Any] | None) -> tuple[str, str]:
    if pair is None:
        return "-", "-"
    ratio = f"{100 * pair['token_ratio']:.0f} %{bracket(pair['token_ratio_ci'], 100, '.0f')}"
    low, high = pair["d_accuracy_ci"]
    return ratio, f"{100 * pair['d_accuracy']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
