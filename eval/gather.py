"""What a report is made from: the finished evaluations of a run, and the stages that led to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import Problem, Rollout, read_problems, read_rollouts


@dataclass(frozen=True)
class Stage:
    """A complete stage folder."""

    folder: Path

    @cached_property
    def description(self) -> dict[str, Any]:
        """The resolved `stage.yaml`."""
        return yaml.safe_load((self.folder / "stage.yaml").read_text(encoding="utf-8"))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What its process wrote when it was done."""
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """As in the recipe."""
        return self.description["name"]

    @property
    def kind(self) -> str:
        """`generate`, `sft`, ..."""
        return self.description["kind"]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`; empty for a stage that does not train."""
        path = self.folder / "metrics.jsonl"
        return list(read_jsonl(path)) if path.is_file() else []

    def facts(self) -> dict[str, Any]:
        """For the provenance."""
        about = self.description
        return {
            "name": self.name,
            "kind": self.kind,
            "hash": about.get("hash"),
            "seed": about.get("seed"),
            "seconds": self.manifest.get("seconds"),
        }


@dataclass(frozen=True)
class Evaluation(Stage):
    """A complete `eval` stage folder."""

    @cached_property
    def results(self) -> dict[str, Any]:
        """Its `results.json`."""
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))

    @cached_property
    def problems(self) -> list[Problem]:
        """The problems that were asked."""
        return list(read_problems(self.folder / "problems.jsonl"))

    @cached_property
    def models(self) -> list[str]:
        """In the order of the recipe."""
        return list(dict.fromkeys(row["model"] for row in self.results["rows"]))

    @cached_property
    def rollouts(self) -> dict[str, list[Rollout]]:
        """By model."""
        return {name: list(read_rollouts(self.folder / "rollouts" / f"{name}.jsonl")) for name in self.models}


@dataclass(frozen=True)
class Run:
    """One run as a report sees it."""

    folder: Path
    evaluations: tuple[Evaluation, ...]
    stages: tuple[Stage, ...]
    """Everything that the evaluations rest on, in the order of the recipe."""


def gather(run: Path, folders: Sequence[str] = ()) -> Run:
    """Find the evaluations of a run and their ancestors.

    Args:
        run: ``runs/<recipe name>``.
        folders: Names of the evaluation folders to use. By default the newest complete one of each name, since
            folders of earlier versions of a recipe stay where they are.

    Raises:
        DataError: there is no such run or no complete evaluation in it.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder", cure="give the folder that `laconic run` printed")
    found = [_named(run, name) for name in folders] if folders else _newest(run)
    if not found:
        raise DataError(f"{run}: no complete eval stage", cure="run the recipe up to its eval stage first")
    found.sort(key=lambda stage: stage.folder.name)
    ancestors = {name for stage in found for name in _ancestors(run, stage)}
    return Run(run, tuple(found), tuple(Stage(run / name) for name in sorted(ancestors)))


def _named(run: Path, name: str) -> Evaluation:
    stage = Evaluation(run / name)
    if not (stage.folder / "manifest.json").is_file():
        raise DataError(f"{stage.folder}: not a complete stage", cure="run it first")
    return stage


def _newest(run: Path) -> list[Evaluation]:
    manifests = sorted(run.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    stages = [Evaluation(path.parent) for path in manifests if path.parent.suffix != ".partial"]
    return list({stage.name: stage for stage in stages if stage.kind == "eval"}.values())


def _ancestors(run: Path, stage: Stage) -> Iterator[str]:
    for name in stage.description.get("inputs", {}).values():
        yield name
        yield from _ancestors(run, Stage(run / name))
