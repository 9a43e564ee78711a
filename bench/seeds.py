"""A recipe run for several seeds, each result file kept, and whether a claim holds for every seed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True)
class Study:
    """What is run, and what is claimed of it."""

    recipe: str
    verdict: Callable[[dict[str, Any]], tuple[bool, str]]
    """Whether a result file supports the claim, and the figures that decide it."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Of the report of seed 0, without `.png`: the name under which the documents show each."""

    def runs(self, seed: int) -> str:
        """Where a seed runs; seed 0 where `make` runs it too."""
        return f"runs/seed{seed}" if seed else "runs"

    def result_files(self) -> dict[int, Path]:
        """Those that are kept, by seed."""
        found = RESULTS.glob(f"{self.recipe}_seed*.json")
        return {int(path.stem.rpartition("seed")[2]): path for path in found}

    def results(self) -> dict[int, dict[str, Any]]:
        """What they say."""
        return {seed: json.loads(path.read_text()) for seed, path in sorted(self.result_files().items())}


def run(study: Study, seed: int) -> float:
    """Run a study's recipe with a seed.

    Returns:
        The seconds it took; next to nothing for a run that is complete already.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", "laconic.launch.cli", "run", f"recipes/{study.recipe}.yaml"]
    command += ["--profile", "cpu2", "--set", f"seed={seed}", "--runs", study.runs(seed)]
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - started


def keep(study: Study, seed: int) -> dict[str, Any]:
    """Copy a seed's results into the repository, and those pictures that are shown; returns the results."""
    report = ROOT / study.runs(seed) / study.recipe / "report"
    images = ROOT / "docs/images"
    for folder in (RESULTS, images):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(report / "results.json", RESULTS / f"{study.recipe}_seed{seed}.json")
    for source, name in study.pictures.items() if seed == 0 else ():
        for theme in ("", "_dark"):
            shutil.copy(report / f"{source}{theme}.png", images / f"{name}{theme}.png")
    return json.loads((report / "results.json").read_text())


def main(study: Study, seeds: list[int]) -> int:
    """Run all seeds; the exit code says whether the claim held for all."""
    lines, held = [], True
    # All runs come before the first copy: a changed file would make the later ones' commit look edited.
    spent = {seed: run(study, seed) for seed in seeds}
    for seed, seconds in spent.items():
        holds, figures = study.verdict(keep(study, seed))
        held &= holds
        lines.append(f"seed {seed}: {'holds' if holds else 'DOES NOT HOLD'}: {figures}, {seconds:.0f} s")
    print("\n".join(lines))
    return 0 if held else 1
