"""The quickstart's GRPO stage as it is, and with TRL's own trainer and TRL's own generation, from one checkpoint.

    python bench/quickstart_trl.py [SEED ...] [--rounds N] [--prepared RUNS] [--runs RUNS] [--steps N] [--quick]
                                   [--write]

A recipe is made of recipes/quickstart.yaml: its stages up to `dpo`, then `grpo` and `grpo_trl` one after the other on
the same two processes, then one evaluation of both on the same problems with the same random numbers. `grpo_trl` is
`grpo` with `fast: false`, and with `generation_kwargs: {}`, a setting that changes nothing but that only TRL's
generation has: there `model.generate` draws the rollouts, with the same temperature, limits and batch. With odd seeds
TRL comes first.

Without a seed, that is 0. Complete stages of an earlier call are taken as they are, but for the two that are measured
and what follows them.

Every round trains both anew. The figures are those of the round whose ratio is the median, and all ratios are kept.

The claim: training takes at most 60 % of TRL's seconds (those that the trainer counts, loading and saving left out),
and neither accuracy nor tokens can be told apart: their 95 % intervals overlap.

--rounds N       Of each seed; 5 if nothing is said. With an even number the higher of the two middle ones counts.
--prepared RUNS  A folder of runs in which the quickstart was run with these seeds; its stages up to `dpo` are copied.
--runs RUNS      Where it runs; runs/quickstart_trl if nothing is said.
--steps N        Of both stages, instead of the recipe's.
--quick          The recipe's tiny overlay: shows that it runs.
--write          Keep the figures in bench/results/quickstart_trl.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seeds import RESULTS, ROOT

from laconic.eval.gather import Stage
from laconic.eval.provenance import provenance
from laconic.eval.step_time import step_times
from laconic.recipes.resolve import Plan, resolve
from laconic.recipes.source import load_recipe
from laconic.recipes.yaml_text import dump_yaml, load_yaml

OURS, TRL = "grpo", "grpo_trl"
MOST_SECONDS = 0.60
PROFILE = "cpu2"
Z = 1.96
"""Standard errors to each side of a 95 % interval."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prepared", type=Path, metavar="RUNS")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quickstart_trl")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    found = {seed: middle([measure(seed, options) for _ in range(rounds)]) for seed in options.seeds}
    for seed, figures in found.items():
        print(f"seed {seed}: {said(figures)}")
    if options.write:
        about = {"profile": PROFILE, "seeds": options.seeds, "most_seconds": MOST_SECONDS}
        facts = provenance(**about, steps=options.steps, quick=options.quick, figures=found)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "quickstart_trl.json").write_text(json.dumps(facts, indent=2) + "\n")
    return 0 if options.quick or all(figures["holds"] for figures in found.values()) else 1


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round with the median ratio, and the seconds of all, in their order."""
    chosen = sorted(rounds, key=lambda figures: figures["training_ratio"])[len(rounds) // 2]
    seconds = [{side: figures[side]["training_seconds"] for side in (OURS, TRL)} for figures in rounds]
    ratios = [figures["training_ratio"] for figures in rounds]
    return chosen | {"rounds": {"training_seconds": seconds, "training_ratio": ratios}}


def recipe(seed: int) -> dict[str, Any]:
    """The quickstart with a second GRPO stage, and one evaluation of the two."""
    file = ROOT / "recipes" / "quickstart.yaml"
    data, _ = load_yaml(file.read_text(encoding="utf-8"), label=file.name)
    names = [stage.get("name", stage["kind"]) for stage in data["stages"]]
    before, ours = data["stages"][: names.index(OURS)], data["stages"][names.index(OURS)]
    theirs = ours | {"name": TRL, "fast": False, "trainer": ours["trainer"] | {"generation_kwargs": {}}}
    evaluation = data["stages"][names.index("eval")] | {"models": [OURS, TRL], "baseline": TRL}
    tiny = {key: value for key, value in data["overlays"]["tiny"].items() if key.partition(".")[0] != "policies"}
    tiny |= {f"{TRL}{key.removeprefix(OURS)}": value for key, value in tiny.items() if key.startswith(f"{OURS}.")}
    sides = [theirs, ours] if seed % 2 else [ours, theirs]
    changes = {"name": "quickstart_trl", "seed": seed, "stages": [*before, *sides, evaluation]}
    return data | changes | {"overlays": {"tiny": tiny}}


def measure(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run the recipe; returns the figures of both stages and what they say together."""
    runs = options.runs / f"{'quick' if options.quick else 'seed'}{seed}"
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / "recipe.yaml"
    path.write_text(dump_yaml(recipe(seed)), encoding="utf-8")
    overlays = ["tiny"] if options.quick else []
    changes = [f"{side}.trainer.max_steps={options.steps}" for side in (OURS, TRL) if options.steps]
    plan = resolve(load_recipe(path, overrides=changes, overlays=overlays), runs)
    _make_ready(plan, options.prepared and options.prepared / "quickstart")
    command = [sys.executable, "-m", "laconic.launch.cli", "run", str(path), "--profile", PROFILE, "--runs", str(runs)]
    # Chosen from what else the machine does, they could be more for one stage than for the other.
    command += ["--threads", "1"]
    command += [f"--overlay={name}" for name in overlays] + [f"--set={change}" for change in changes]
    subprocess.run(command, cwd=ROOT, check=True)
    return figures(plan)


def _make_ready(plan: Plan, prepared: Path | None) -> None:
    """Copy the stages before those that are measured, and give up what an earlier call measured."""
    measured = min(plan.stages.index(plan.stage(side)) for side in (OURS, TRL))
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    for stage in plan.stages[:measured] if prepared else ():
        if not (plan.run_dir / stage.folder).exists():
            shutil.copytree(prepared / stage.folder, plan.run_dir / stage.folder)
    for stage in plan.stages[measured:]:
        for folder in plan.run_dir.glob(f"{stage.folder}*"):
            shutil.rmtree(folder)


def figures(plan: Plan) -> dict[str, Any]:
    """What a complete run says."""
    results = json.loads((plan.run_dir / "report" / "results.json").read_text())
    rows = {row["model"]: row for row in results["rows"]}
    sides = {side: _side(plan, side, rows[side]) for side in (OURS, TRL)}
    ours, theirs = sides[OURS], sides[TRL]
    assert ours["model"] == theirs["model"]
    (pair,) = results["paired"]
    ratio = ours["training_seconds"] / theirs["training_seconds"]
    overlap = {name: _overlap(ours[f"{name}_ci"], theirs[f"{name}_ci"]) for name in ("accuracy", "tokens")}
    return {
        "order": [stage.name for stage in plan.stages if stage.name in sides],
        **sides,
        "training_ratio": ratio,
        "stage_ratio": ours["stage_seconds"] / theirs["stage_seconds"],
        "overlap": overlap,
        "paired": {name: value for name, value in pair.items() if name.startswith(("d_accuracy", "token_ratio"))},
        "holds": ratio <= MOST_SECONDS and all(overlap.values()),
    }


def _side(plan: Plan, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    stage = Stage(plan.run_dir / plan.stage(name).folder)
    (time,) = step_times([stage])
    return {
        "model": plan.stage(name).inputs["model"],
        "steps": stage.manifest["steps"],
        "processes": stage.manifest["world_size"],
        "training_seconds": next(row["train_runtime"] for row in stage.metrics if "train_runtime" in row),
        "stage_seconds": stage.manifest["seconds"],
        "seconds_of_a_step": time.seconds,
        "padding": time.padding,
        "skipped": time.skipped,
        "n_problems": row["n_problems"],
        "n_samples": row["n_samples"],
        **{key: row[key] for key in ("accuracy", "accuracy_se", "tokens", "tokens_se")},
        **{f"{key}_ci": _interval(row[key], row[f"{key}_se"]) for key in ("accuracy", "tokens")},
    }


def _interval(mean: float, error: float | None) -> list[float]:
    """95 %; without a known error, the mean alone."""
    return [mean - Z * (error or 0.0), mean + Z * (error or 0.0)]


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return max(one[0], other[0]) <= min(one[1], other[1])


def said(figures: Mapping[str, Any]) -> str:
    """One line."""
    ours, theirs = figures[OURS], figures[TRL]
    apart = [name for name, overlap in figures["overlap"].items() if not overlap]
    return (
        f"{'holds' if figures['holds'] else 'DOES NOT HOLD'}: {ours['training_seconds']:.1f} s against "
        f"{theirs['training_seconds']:.1f} s of training, ratio {figures['training_ratio']:.2f} (whole stages "
        f"{figures['stage_ratio']:.2f}); accuracy {ours['accuracy']:.3f} against {theirs['accuracy']:.3f}, tokens "
        f"{ours['tokens']:.1f} against {theirs['tokens']:.1f}: "
        + (f"{' and '.join(apart)} apart" if apart else "their intervals overlap")
        + "; ratios of all rounds "
        + ", ".join(f"{ratio:.2f}" for ratio in figures["rounds"]["training_ratio"])
    )


if __name__ == "__main__":
    sys.exit(main())
