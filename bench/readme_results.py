"""Write the measured figures into README.md and the guides from the result files in bench/results.

    python bench/readme_results.py

Everything between two markers in these documents comes from here, so no figure there lacks a file behind it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from provenance_line import provenance_line
from quickstart_seeds import QUICKSTART, verdict
from search_results import seeds_section
from search_rewards import REWARDS, table_section
from search_seeds import SEARCH
from seeds import RESULTS, ROOT

from laconic.eval import policy_table
from laconic.eval.headline import headline
from laconic.eval.table import markdown_table

POLICY_COLUMNS = (
    *("policy", "accuracy, %", "tokens", "tokens vs no policy", "accuracy vs no policy, points", "what it shows"),
    *("critical path", "probes and other", "discarded", "answered, %"),
)


def section(results: dict[int, dict[str, Any]]) -> str:
    """The README's section for result files by seed; the first seed is the one that is shown in full."""
    shown = results[min(results)]
    return "\n".join(
        [
            f"**Measured** (seed {min(results)}): {headline(shown).sentence}",
            "",
            "<picture>",
            '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/quickstart_dark.png">',
            '  <img src="docs/images/quickstart.png" alt="Accuracy against tokens of the three checkpoints">',
            "</picture>",
            "",
            markdown_table(shown).strip(),
            "",
            provenance_line(shown, "make quickstart", f"quickstart_seed{min(results)}.json"),
            "",
            "The same claim, at most 60 % of the SFT checkpoint's tokens and accuracy not lower (one-sided, margin 1 "
            "point), for each seed:",
            "",
            "| seed | tokens vs sft | accuracy sft | accuracy grpo | difference, 95 % interval | holds |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_seed_row(seed, result) for seed, result in sorted(results.items())),
            *(_policies(shown) if "policies" in shown else ()),
        ]
    )


def _policies(results: dict[str, Any]) -> list[str]:
    """How the same models do under inference policies: a picture, and one sentence for each model."""
    sentences = [f"- {policy_table.sentence(block)}" for block in policy_table.blocks(results)]
    return [
        "",
        "And by how they are asked: inference policies on the checkpoints, each against no policy of the same "
        "checkpoint on the same held-out problems with the same random numbers. Parameters were chosen on "
        "training problems; all tokens count, those of probes and discarded traces too. "
        "[All of them](docs/guides/policy-results.md):",
        "",
        "<picture>",
        '  <source media="(prefers-color-scheme: dark)" srcset="docs/images/quickstart_policies_dark.png">',
        '  <img src="docs/images/quickstart_policies.png" alt="Accuracy against tokens of the SFT checkpoint under '
        'policies">',
        "</picture>",
        "",
        *sentences,
    ]


def policies_section(results: dict[int, dict[str, Any]]) -> str:
    """A table of policies for each model of the first seed."""
    shown, lines = results[min(results)], []
    for block in policy_table.blocks(shown):
        header, cells = policy_table.cells(block)
        kept = [header.index(name) for name in POLICY_COLUMNS if name in header]
        rows = [[line[place] for place in kept] for line in cells]
        lines += [policy_table.sentence(block), ""]
        lines += [policy_table.markdown_lines([header[place] for place in kept], rows), ""]
    lines += [policy_table.caption(shown), ""]
    return "\n".join([*lines, provenance_line(shown, "make quickstart", f"quickstart_seed{min(results)}.json")])


def _seed_row(seed: int, results: dict[str, Any]) -> str:
    pair = next(pair for pair in results["paired"] if (pair["model"], pair["baseline"]) == ("grpo", "sft"))
    accuracy = {row["model"]: 100 * row["accuracy"] for row in results["rows"]}
    low, high = (100 * end for end in pair["d_accuracy_ci"])
    return (
        f"| {seed} | {100 * pair['token_ratio']:.0f} % | {accuracy['sft']:.1f} % | {accuracy['grpo']:.1f} % "
        f"| {low:+.1f} to {high:+.1f} points | {'yes' if verdict(results)[0] else 'no'} |"
    )


def step_section() -> str:
    """What a GRPO step takes beside TRL's, from the result file of `bench/grpo_step.py`."""
    found = json.loads((RESULTS / "grpo_step.json").read_text())
    figures = found["figures"]
    rows = []
    for case in ("long_tails", "equal_lengths", "whole_step"):
        theirs, ours = (f"{figures[case][f'{side}_seconds']:.2f} s" for side in ("trl", "laconic"))
        rows.append([case.replace("_", " "), theirs, ours, f"{figures[case]['ratio']:.1f} times faster"])
    memory = figures["peak_memory"]
    theirs, ours = (f"{memory[f'{side}_mebibytes']:.0f} MiB" for side in ("trl", "laconic"))
    rows.append(["peak memory", theirs, ours, f"{100 * memory['ratio']:.0f} %"])
    table = policy_table.markdown_lines(["case", "TRL's trainer", "this trainer", "against TRL"], rows)
    apart = max(figures[case]["gradient_difference"] for case in ("long_tails", "equal_lengths"))
    return (
        f"{table}\n\nA decoder of {found['parameters'] / 1e6:.1f} million parameters, {found['rollouts']} rollouts a "
        f"step, one thread, medians of {found['rounds']} rounds; the gradients differ by at most {apart:.0e} of their "
        f"size. Made by `{found['command']}` at commit {found['commit']['hash'][:10]} on {found['hardware']['cpu']}; "
        "the file is `bench/results/grpo_step.json`. On a GPU: not yet measured."
    )


def trl_section() -> str:
    """The quickstart trained by this trainer and by TRL's, from the result file of `bench/quickstart_trl.py`."""
    found = json.loads((RESULTS / "quickstart_trl.json").read_text())
    header = [
        "seed",
        "TRL's trainer",
        "this trainer",
        "of TRL's seconds",
        "accuracy, TRL and this",
        "tokens, TRL and this",
    ]
    rows = []
    for seed, figures in found["figures"].items():
        ours, theirs = figures["grpo"], figures["grpo_trl"]
        seconds = (f"{side['training_seconds']:.0f} s" for side in (theirs, ours))
        accuracies = " and ".join(
            f"{100 * side['accuracy']:.1f} ± {100 * side['accuracy_se']:.1f} %" for side in (theirs, ours)
        )
        tokens = " and ".join(f"{side['tokens']:.1f} ± {side['tokens_se']:.1f}" for side in (theirs, ours))
        ratios = figures["rounds"]["training_ratio"]
        share = f"{100 * figures['training_ratio']:.0f} % ({100 * min(ratios):.0f} to {100 * max(ratios):.0f})"
        rows.append([seed, *seconds, share, accuracies, tokens])
    table, aim = policy_table.markdown_lines(header, rows), 100 * found["most_seconds"]
    rounds = len(next(iter(found["figures"].values()))["rounds"]["training_ratio"])
    return (
        f"{table}\n\nThe GRPO stage of `recipes/quickstart.yaml` from the same checkpoint, two processes; TRL "
        f"generates with `model.generate`; ± is one standard error. The round with the median share of {rounds}, in "
        f"brackets the least and the most. The aim is {aim:.0f} % of TRL's seconds at "
        f"overlapping intervals: {_reached(found['figures'])}. "
        f"{provenance_line({'provenance': found}, found['command'], 'quickstart_trl.json')}{_other_runs()}"
    )


def _other_runs() -> str:
    """The shares of runs that were kept beside the one that is shown, so that nobody takes it for the only one."""
    said = []
    for file in sorted(RESULTS.glob("quickstart_trl_*.json")):
        found = json.loads(file.read_text())
        for figures in found["figures"].values():
            shares = ", ".join(f"{100 * ratio:.0f}" for ratio in figures["rounds"]["training_ratio"])
            said.append(f"{shares} % at {found['commit']['hash'][:10]} (`bench/results/{file.name}`)")
    return f" Earlier runs, all rounds: {'; '.join(said)}." if said else ""


def _reached(figures: dict[str, Any]) -> str:
    return "reached" if all(one["holds"] for one in figures.values()) else "not reached"


def place(document: Path, name: str, lines: str) -> None:
    """Put lines between the markers of that name in a document."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = document.read_text().partition(begin)
    if not found:
        raise SystemExit(f"{document.name} has no {begin}")
    document.write_text(f"{before}{begin}\n{lines}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    """Rewrite the documents in place."""
    place(ROOT / "README.md", QUICKSTART.recipe, section(QUICKSTART.results()))
    place(ROOT / "README.md", SEARCH.recipe, seeds_section(SEARCH.results()))
    place(ROOT / "docs/guides/policy-results.md", "policies", policies_section(QUICKSTART.results()))
    place(ROOT / "docs/guides/search-quickstart.md", REWARDS.recipe, table_section(REWARDS.results()))
    place(ROOT / "docs/guides/faster-grpo.md", "grpo_step", step_section())
    place(ROOT / "docs/guides/faster-grpo.md", "quickstart_trl", trl_section())


if __name__ == "__main__":
    main()
