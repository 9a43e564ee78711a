"""What every stage process does first and last: find its stage, check its inputs, report, commit."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.recipes.folder import PARTIAL, STAGE_FILE, StageFolder, is_complete
from laconic.recipes.resolve import StageFile, resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import DataError, LaconicError, LaunchError, RecipeError
from laconic.rewards.jsonl import write_atomic

ERROR_FILE = "error.json"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Opened:
    """A stage that may begin: its inputs are complete, its work folder is there."""

    stage: StageFile
    folder: StageFolder

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return self.folder.run_dir

    @property
    def work(self) -> Path:
        """Where the stage writes."""
        return self.folder.work

    def input(self, role: str) -> Path:
        """The complete folder of the stage that fills a role."""
        return self.run_dir / self.stage.inputs[role]

    def model_dir(self, role: str = "model") -> str:
        """What `from_pretrained` takes for a role: a model folder of this run, or the recipe's own `model.path`."""
        if role in self.stage.inputs:
            return str(self.input(role) / "model")
        assert self.stage.model.path is not None, f"{role} of {self.stage.name} has neither an input nor a path"
        return self.stage.model.path

    def revision(self, role: str = "model") -> str | None:
        """The hub revision of `model_dir`; None for a folder of this run."""
        return None if role in self.stage.inputs else self.stage.model.revision


def is_main_process() -> bool:
    """Whether this process is the one that writes (rank 0, or the only one)."""
    return os.environ.get("RANK", "0") == "0"


def open_stage(kind: str, argv: Sequence[str]) -> Opened:
    """Find the stage that a command line names, and make it ready to work.

    Args:
        kind: The kind of stage that the calling process can run.
        argv: `<folder>/stage.yaml`, or `<recipe.yaml> [--stage NAME] [--set k=v] [--overlay NAME] [--runs DIR]`.

    Raises:
        LaconicError: the recipe or stage is wrong, an input is not complete, or another process works on the stage.
        SystemExit: with code 0, the stage is complete already.
    """
    options = _parser(kind).parse_args(argv)
    run_dir, stage = _from_stage_file(options) if Path(options.file).name == STAGE_FILE else _from_recipe(kind, options)
    if stage.kind != kind:
        module = "data_gen.stage" if stage.kind == "generate" else "eval.stage" if stage.kind == "eval" else None
        cure = f"run it with laconic.{module or f'training.{stage.kind}'}"
        raise RecipeError(f"{options.file}: stage {stage.name!r} is of kind {stage.kind}, not {kind}", cure=cure)
    folder = StageFolder(run_dir, stage)
    _leave_if_complete(folder)
    _check_inputs(run_dir, stage)
    if is_main_process():
        folder.lock()
        # Whoever held the lock until now may have been doing this very stage.
        _leave_if_complete(folder)
        folder.prepare()
        (folder.work / ERROR_FILE).unlink(missing_ok=True)
    return Opened(stage, folder)


def _leave_if_complete(folder: StageFolder) -> None:
    if folder.complete:
        print(f"{folder.stage.name}: already complete: {folder.path}")
        raise SystemExit(0)


def _parser(kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Run one {kind} stage.")
    parser.add_argument("file", help="a stage folder's stage.yaml, or a recipe")
    parser.add_argument("--stage", help=f"which {kind} stage of the recipe, where it has several")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--overlay", dest="overlays", action="append", default=[], metavar="NAME")
    parser.add_argument("--runs", default="runs", help="the folder of all runs (default: %(default)s)")
    return parser


def _from_stage_file(options: argparse.Namespace) -> tuple[Path, StageFile]:
    if options.stage or options.overrides or options.overlays:
        cure = f"name the recipe instead of {STAGE_FILE}"
        raise RecipeError(f"{options.file}: a resolved stage takes no --stage, --set or --overlay", cure=cure)
    given = Path(options.file).absolute().parent
    final = given.with_name(given.name.removesuffix(PARTIAL))
    for folder in (final, final.with_name(final.name + PARTIAL)):
        if (folder / STAGE_FILE).is_file():
            return folder.parent, StageFile.from_yaml(folder / STAGE_FILE)
    cure = "name the recipe instead, or use laconic run, which prepares the folder"
    raise RecipeError(f"{options.file}: no such file", cure=cure)


def _from_recipe(kind: str, options: argparse.Namespace) -> tuple[Path, StageFile]:
    recipe = load_recipe(options.file, overrides=options.overrides, overlays=options.overlays)
    plan = resolve(recipe, Path(options.runs))
    if options.stage is not None:
        return plan.run_dir, plan.stage(options.stage)
    fitting = [stage for stage in plan.stages if stage.kind == kind]
    if not fitting:
        raise RecipeError(f"{options.file} has no {kind} stage")
    if len(fitting) > 1:
        names = " or ".join(f"--stage {stage.name}" for stage in fitting)
        raise RecipeError(f"{options.file} has {len(fitting)} {kind} stages", cure=f"choose with {names}")
    return plan.run_dir, fitting[0]


def _check_inputs(run_dir: Path, stage: StageFile) -> None:
    lacking = [name for name in dict.fromkeys(stage.inputs.values()) if not is_complete(run_dir / name)]
    if lacking:
        needed = ", ".join(str(run_dir / name) for name in lacking)
        names = ", ".join(name.split("-", 1)[1].rsplit("-", 1)[0] for name in lacking)
        message = f"stage {stage.name!r} needs what is not complete yet: {needed}"
        raise DataError(message, cure=f"run first: {names} (laconic run does so)")


def run_stage(kind: str, main: Callable[[Opened], dict[str, Any]], argv: Sequence[str] | None = None) -> None:
    """Run a stage process: open the stage, call `main` and commit with the facts it returns.

    What the user can mend is printed without a traceback and kept in `error.json` of the work folder; the process
    then leaves with code 2.

    Args:
        kind: The kind of stage that `main` runs.
        main: Does the work in `Opened.work`; every process of the stage calls it.
        argv: The command line, without the program; None means this process's own.
    """
    started = time.monotonic()
    work: Path | None = None
    try:
        opened = open_stage(kind, sys.argv[1:] if argv is None else argv)
        work = opened.work
        facts = main(opened)
        if is_main_process():
            opened.folder.commit(time.monotonic() - started, **facts)
    except Exception as error:
        mendable = error if isinstance(error, LaconicError) else _disk_full(error, work)
        if mendable is None:
            raise
        _report(mendable, work)
        raise SystemExit(mendable.exit_code) from error


def _disk_full(error: BaseException, work: Path | None) -> LaunchError | None:
    """The error to show if this one, or one behind it, says that a disk is full."""
    behind: BaseException | None = error
    while behind is not None:
        # Writers in Rust (safetensors) and C++ (torch) report it as text only.
        if (isinstance(behind, OSError) and behind.errno in _NO_SPACE) or "No space left on device" in str(behind):
            file = getattr(behind, "filename", None)
            message = f"no space left on the disk of {work or file or 'the run folder'}"
            return LaunchError(message, cure="free some space, then run it again: it resumes from what was saved")
        behind = behind.__cause__ or behind.__context__
    return None


def _report(error: LaconicError, work: Path | None) -> None:
    rank = "" if is_main_process() else f"[rank {os.environ['RANK']}] "
    print(f"{rank}error: {error}", file=sys.stderr, flush=True)
    file = work / ERROR_FILE if work is not None else None
    if file is not None and work.is_dir() and (is_main_process() or not file.exists()):
        # On a full disk the note is lost; the message above is not.
        with suppress(OSError):
            write_atomic(file, json.dumps({"message": str(error), "exit_code": error.exit_code}) + "\n")
