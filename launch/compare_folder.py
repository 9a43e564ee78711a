"""The folder of a comparison: what it holds stays, and what it cannot hold is refused.

Further engines belong to the policies that ask them: others can be added later, but a name that earlier answers depend
on stays with its model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.eval.policy_digests import model_digest
from laconic.inference.policies.choose import choice_of
from laconic.inference.policies.needs import engines_of
from laconic.recipes.policy_entry import file_name
from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import write_atomic, write_jsonl
from laconic.rewards.records import Problem

SETTINGS = "compare.json"
PROBLEMS = "problems.jsonl"
ROLLOUTS = "rollouts"
_DIGEST = "_sha256"
_CURE = "name another folder with --out, or delete this one"


def prepare(
    folder: Path, settings: dict[str, Any], problems: Sequence[Problem], *, identity: Sequence[str]
) -> list[str]:
    """Write down what is asked, policies that were asked here before included.

    Args:
        folder: New, or of an earlier comparison.
        settings: What the process reads; `policies` gets the earlier ones too, before those that are new, and `engines`
            those that they ask.
        problems: What is asked.
        identity: The keys of what answers depend on besides their policy.

    Returns:
        The labels of the earlier policies that are not among those asked for.

    Raises:
        DataError: the folder has answers to something else, or is no comparison's.
    """
    file, earlier = folder / SETTINGS, []
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf-8"))
        # What never ran has nothing that could get mixed up.
        if any(_has_answers(folder, label) for label in ("none", *_labels(there))):
            _check_same(folder, there, settings, problems, identity)
            earlier = [entry for entry in there["policies"] if _has_answers(folder, entry["label"])]
    elif folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
        raise DataError(f"{folder}: is not empty, and no comparison", cure="name another folder with --out")
    given, before = settings.get("engines", {}), there.get("engines", {}) if earlier else {}
    settings["engines"] = _engines(folder, earlier, before, given)
    new = {entry["label"]: entry for entry in settings["policies"]}
    kept = [new.pop(entry["label"], entry) for entry in earlier]
    asked = _labels(settings)
    settings["policies"] = [*kept, *new.values()]
    write_jsonl(folder / PROBLEMS, (problem.to_json() for problem in problems))
    write_atomic(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    return [entry["label"] for entry in kept if entry["label"] not in asked]


def _labels(settings: dict[str, Any]) -> list[str]:
    return [entry["label"] for entry in settings["policies"]]


def _has_answers(folder: Path, label: str) -> bool:
    path = folder / ROLLOUTS / f"{file_name(label)}.jsonl"
    return path.is_file() and path.stat().st_size > 0


def _check_same(
    folder: Path, there: dict[str, Any], settings: dict[str, Any], problems: Sequence[Problem], identity: Sequence[str]
) -> None:
    other = next((key for key in identity if there.get(key) != settings[key]), None)
    if other is None:
        return
    what = f"another {other} ({there.get(other)}, not {settings[other]})"
    if other == f"problems{_DIGEST}":
        before = _lines(folder / PROBLEMS)
        what = "other problems" + (f" ({before:,}, not {len(problems):,})" if before != len(problems) else "")
    elif other.endswith(_DIGEST):
        # Nobody knows a file by its digest.
        what = f"another {other.removesuffix(_DIGEST)}: its files have changed"
    raise DataError(f"{folder} holds a comparison with {what}", cure=_CURE)


def engine_entry(model: str) -> dict[str, Any]:
    """What is written down of a further engine: its model, and a digest of its files where they can be rewritten."""
    return {"model": model, "sha256": model_digest(model)}


def _engines(
    folder: Path, earlier: Sequence[Mapping[str, Any]], there: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """The further engines that are given, and those that earlier policies ask.

    Raises:
        DataError: earlier answers were another model's.
    """
    kept = {name: there[name] for entry in earlier for name in engines_of(choice_of(entry))}
    for name, was in kept.items():
        now = new.get(name) or engine_entry(was["model"])
        if now["model"] != was["model"]:
            what = f"another engine {name!r} ({was['model']}, not {now['model']})"
            raise DataError(f"{folder} holds a comparison with {what}", cure=_CURE)
        if now != was:
            what = f"another engine {name!r}: the files of {was['model']} have changed"
            raise DataError(f"{folder} holds a comparison with {what}", cure=_CURE)
    return {**kept, **new}


def _lines(path: Path) -> int:
    return sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line) if path.is_file() else 0
