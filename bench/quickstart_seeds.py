"""Run the quickstart for several seeds, keep each result file, and say whether the claim holds for every seed.

    python bench/quickstart_seeds.py [SEED ...]        (default: 0 1 2)

The claim: on held-out problems the GRPO checkpoint uses at most 60 % of the SFT checkpoint's tokens, and its accuracy
is not lower (one-sided non-inferiority, margin 1 point).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
MOST_TOKENS = 0.60


def run(seed: int) -> float:
    """Run the quickstart with a seed, in a folder of its own (seed 0: where `make quickstart` runs).

    Returns:
        The seconds it took; next to nothing for a run that is complete already.
    """
    started = time.monotonic()
    runs = f"runs/seed{seed}" if seed else "runs"
    command = [sys.executable, "-m", "laconic.launch.cli", "run", "recipes/quickstart.yaml"]
    command += ["--profile", "cpu2", "--set", f"seed={seed}", "--runs", runs]
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - started


def keep(seed: int) -> dict[str, Any]:
    """Copy a seed's results into the repository, and its picture if README.md shows it; returns the results."""
    report = ROOT / (f"runs/seed{seed}" if seed else "runs") / "quickstart/report"
    for folder in (RESULTS, ROOT / "docs/images"):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(report / "results.json", RESULTS / f"quickstart_seed{seed}.json")
    if seed == 0:  # the one that README.md shows
        shutil.copy(report / "accuracy_tokens.png", ROOT / "docs/images/quickstart.png")
        shutil.copy(report / "accuracy_tokens_dark.png", ROOT / "docs/images/quickstart_dark.png")
        shutil.copy(report / "policies_sft.png", ROOT / "docs/images/quickstart_policies.png")
        shutil.copy(report / "policies_sft_dark.png", ROOT / "docs/images/quickstart_policies_dark.png")
    return json.loads((report / "results.json").read_text())


def verdict(results: dict[str, Any]) -> tuple[bool, str]:
    """Whether a result file supports the claim, and the figures that decide it."""
    pair = next(pair for pair in results["paired"] if (pair["model"], pair["baseline"]) == ("grpo", "sft"))
    holds = pair["token_ratio"] <= MOST_TOKENS and pair["non_inferior"]
    accuracy = {row["model"]: row["accuracy"] for row in results["rows"]}
    return holds, (
        f"tokens {pair['token_ratio']:.3f} of sft, accuracy {accuracy['sft']:.3f} -> {accuracy['grpo']:.3f} "
        f"(lower bound {pair['non_inferiority_bound']:+.3f})"
    )


def main(seeds: list[int]) -> int:
    """Run all seeds; the exit code says whether the claim held for all."""
    lines, held = [], True
    # All runs come before the first copy: a changed file would make the later ones' commit look edited.
    spent = {seed: run(seed) for seed in seeds}
    for seed, seconds in spent.items():
        holds, figures = verdict(keep(seed))
        held &= holds
        lines.append(f"seed {seed}: {'holds' if holds else 'DOES NOT HOLD'}: {figures}, {seconds:.0f} s")
    print("\n".join(lines))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
