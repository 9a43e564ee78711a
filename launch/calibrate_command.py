"""`laconic calibrate`: record a stopping policy once, choose a threshold that keeps a target, check it elsewhere."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from laconic.inference.about import About, check_complete
from laconic.inference.bounds import find_bound
from laconic.inference.calibrate import Unreachable, calibrate, look_level, split, what_if
from laconic.inference.calibration import Calibration
from laconic.inference.engine import Sampling
from laconic.inference.looks import note_look
from laconic.inference.policies.choose import parse_choice
from laconic.inference.record import recordable
from laconic.inference.recording import Recording, read_recordings
from laconic.inference.target import Target, parse_target
from laconic.launch import calibrate_text
from laconic.launch.engine_argument import completion_tokens, open_model
from laconic.launch.lines import short
from laconic.launch.problems_argument import load_argument
from laconic.rewards.errors import DataError, LaunchError, RecipeError
from laconic.rewards.records import Problem

HELD_OUT = "0.3"
"""Share of the questions that is held out by default."""
PARAMETER = "threshold"
_DECODING = ("recordings", "limit", "samples", "seed", "max_tokens", "temperature", "server", "tokenizer")
"""Options that say how to record."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What the command line said."""

    model: str | None = None
    policy: str | None = None
    problems: str | None = None
    target: str | None = None
    thresholds: str | None = None
    """To be played on the recordings, separated by commas."""
    from_recordings: Path | None = None
    recordings: Path | None = None
    out: Path = Path("calibration.json")
    held_out: str = HELD_OUT
    """A share of the questions, or problems of its own (with `from_recordings`: a recordings file)."""
    limit: int | None = None
    samples: int = 1
    seed: int = 0
    max_tokens: int | None = None
    temperature: float = 1.0
    bound: str = "hoeffding_bentkus"
    server: str = "compatible"
    tokenizer: str | None = None

    @property
    def recordings_path(self) -> Path:
        """Where recordings are kept."""
        return self.from_recordings or self.recordings or self.out.with_suffix(".recordings.jsonl")


@dataclass(frozen=True)
class Recorded:
    """The recordings, parted, and what they were made with."""

    about: About
    chosen_on: Sequence[Recording]
    held_out: Sequence[Recording]
    share: float | None
    """Of all questions, held out; None if these are others."""


def run_calibrate(options: CalibrateOptions, out: Console) -> None:
    """Do what was asked for, and print what came of it.

    Raises:
        RecipeError: an argument is missing or wrong, or the policy cannot be calibrated.
        DataError: the problems or recordings cannot be used, or no threshold keeps the target.
        LaunchError: the engine cannot do what the policy needs, or a file cannot be written.
    """
    target, thresholds = _wanted(options)
    find_bound(options.bound)
    if not options.out.parent.is_dir():
        raise LaunchError(f"{options.out}: the folder {options.out.parent} does not exist", cure="make it")
    recorded = _from_file(options) if options.from_recordings else _from_model(options)
    everything = [*recorded.chosen_on, *recorded.held_out]
    _check_reached(everything, recorded.about)
    if thresholds:
        calibrate_text.print_what_if(out, what_if(everything, thresholds), questions=_questions(everything))
    if target is None:
        calibrate_text.print_next(out, short(options.recordings_path))
        return
    made = _calibrate(options, recorded, target)
    made.save(options.out)
    calibrate_text.print_calibration(out, made)
    out.print(f"\nartefact: {short(options.out)}", markup=False)
    out.print(f"use it as a policy: calibrated:{short(options.out)}", markup=False)


def _check_reached(recordings: Sequence[Recording], about: About) -> None:
    """Refuse recordings in which no threshold could have done anything."""
    if any(item.checkpoints for item in recordings):
        return
    given = ", ".join(f"{key}={about.settings[key]}" for key in ("every", "at", "skip") if key in about.settings)
    message = f"none of {len(recordings):,} runs reached a checkpoint: {given} do not fit this model"
    raise DataError(message, cure="give others: every=8, or at=['='] with a text that its thinking has")


def _wanted(options: CalibrateOptions) -> tuple[Target | None, list[float]]:
    if options.target is None and options.thresholds is None:
        cure = 'give --target "accuracy drop <= 1 point at 95 %", or --thresholds 0.8,0.9 to see what they would do'
        raise RecipeError("nothing to calibrate for", cure=cure)
    given = [options.model, options.policy, options.problems]
    if options.from_recordings is not None and any(item is not None for item in given):
        cure = "leave MODEL, POLICY and --problems out: the recordings say what they were made with"
        raise RecipeError("--from-recordings decodes nothing", cure=cure)
    if options.from_recordings is not None and (changed := _changed(options)):
        cure = "leave it out: all recordings are used, as they were made; to record others, give MODEL and POLICY"
        raise RecipeError(f"--from-recordings decodes nothing: {changed[0]} has no effect", cure=cure)
    if options.from_recordings is None and None in given:
        cure = "laconic calibrate MODEL POLICY --problems FILE --target ..., or --from-recordings FILE --target ..."
        raise RecipeError("what is to be recorded? MODEL, POLICY and --problems are needed", cure=cure)
    target = None if options.target is None else parse_target(options.target)
    return target, [_number("--thresholds", item) for item in (options.thresholds or "").split(",") if item.strip()]


def _changed(options: CalibrateOptions) -> list[str]:
    """Options about recording that are not what they are by default, as the command line writes them."""
    given = [item.name for item in fields(options) if getattr(options, item.name) != item.default]
    return [f"--{name.replace('_', '-')}" for name in _DECODING if name in given]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(f"{option}: {text.strip()!r} is no number", cure=f"for example {option} 0.8,0.9") from None


def _share(text: str) -> float | None:
    """The share that is held out; None where `text` names problems."""
    try:
        share = float(text)
    except ValueError:
        return None
    if not 0.0 <= share < 1.0:
        raise RecipeError(f"--held-out {text}", cure="give a share of the questions from 0 to below 1, or problems")
    return share


def _from_file(options: CalibrateOptions) -> Recorded:
    """Recordings that are there."""
    path, share = options.recordings_path, _share(options.held_out)
    recordings, about = read_recordings(path), About.read(path)
    if about is None:
        raise DataError(f"{path}: does not say what was recorded", cure="record it with laconic calibrate")
    check_complete(path, recordings)
    if share is not None:
        return Recorded(about, *_parted(recordings, share, about.seed), share)
    apart = read_recordings(options.held_out)
    about.check_comparable(options.held_out)
    check_complete(options.held_out, apart)
    return Recorded(about, recordings, apart, None)


def _parted(recordings: Sequence[Recording], share: float, seed: int) -> tuple[list[Recording], list[Recording]]:
    kept, apart = split(recordings, share=share, seed=seed)
    if not kept:
        raise DataError(f"{_questions(recordings)} questions: none is left to calibrate on", cure="record more")
    return kept, apart


def _from_model(options: CalibrateOptions) -> Recorded:
    """Record what is missing, with a model."""
    assert options.model is not None
    assert options.policy is not None
    assert options.problems is not None
    choice, share = parse_choice(options.policy), _share(options.held_out)
    settings = recordable(choice.name, choice.parameters)
    problems = load_argument(options.problems, limit=options.limit)
    others = [] if share is not None else load_argument(options.held_out)
    asked = {problem.id for problem in problems} | {problem.prompt for problem in problems}
    if shared := [problem.id for problem in others if {problem.id, problem.prompt} & asked]:
        raise DataError(f"problem {min(shared)!r} is held out and calibrated on", cure="name other problems for one")
    opened = open_model(options.model, server=options.server, tokenizer=options.tokenizer)
    prompts = [problem.prompt for problem in (*problems, *others)]
    sampling = Sampling(
        temperature=options.temperature, max_tokens=completion_tokens(opened, prompts, options.max_tokens)
    )
    about = About(choice.name, settings, opened.name, asdict(sampling), options.seed, options.problems, _version())
    recordings, apart = asyncio.run(_record(opened, about, problems, others, options))
    if share is not None:
        return Recorded(about, *_parted(recordings, share, about.seed), share)
    return Recorded(about, recordings, apart, None)


async def _record(
    opened: Any, about: About, problems: Sequence[Problem], others: Sequence[Problem], options: CalibrateOptions
) -> tuple[list[Recording], list[Recording]]:
    from laconic.eval.recordings import record_problems

    path, apart = options.recordings_path, []
    try:
        found = await record_problems(opened, about, problems, path=path, samples=options.samples)
        if others:
            elsewhere = replace(about, problems=options.held_out)
            beside = path.with_suffix(".held_out.jsonl")
            apart = await record_problems(opened, elsewhere, others, path=beside, samples=options.samples)
    finally:
        await opened.engine.aclose()
    return found, apart


def _calibrate(options: CalibrateOptions, recorded: Recorded, target: Target) -> Calibration:
    about, path = recorded.about, options.recordings_path
    look = note_look(path, recorded.chosen_on, target, bound=options.bound, held_out=options.held_out)
    try:
        made = calibrate(
            recorded.chosen_on,
            target,
            policy=about.policy,
            parameter=PARAMETER,
            bound=options.bound,  # type: ignore[arg-type]
            model=about.model,
            settings=about.settings,
            held_out=recorded.held_out,
            look=look,
        )
    except DataError as error:
        raise _explained(error, recorded, options, look) from None
    spent = {"look": look, "level": look_level(target.confidence, look)}
    return replace(made, provenance={**_provenance(options, recorded), **spent})


def _explained(error: DataError, recorded: Recorded, options: CalibrateOptions, look: int) -> DataError:
    """The refusal in terms of this command: questions are held out of those that are asked for."""
    path = short(options.recordings_path)
    kept = f"; this was look {look} at {path}, and each further one has to show more (--from-recordings {path})"
    wanted = error.questions if isinstance(error, Unreachable) else None
    if wanted is None:
        return DataError(error.message, cure=f"{error.cure}{kept}")
    total = (
        f" (about --limit {math.ceil(wanted / (1.0 - recorded.share))} with those held out)" if recorded.share else ""
    )
    cure = f"about {wanted} questions would be needed in look {look + 1} if losses stay as they are{total}"
    cure += f"; more go on from {path}"
    return DataError(error.message, cure=f"{cure}; or loosen the target{kept}")


def _provenance(options: CalibrateOptions, recorded: Recorded) -> dict[str, Any]:
    from laconic.eval.recordings import problems_digest

    about = recorded.about
    return {
        "problems": about.problems,
        "problems_sha256": problems_digest(recorded.chosen_on),
        "held_out": options.held_out,
        "held_out_sha256": problems_digest(recorded.held_out) if recorded.held_out else None,
        "sampling": dict(about.sampling),
        "seed": about.seed,
        "samples": len({item.sample for item in recorded.chosen_on}),
        "recordings": options.recordings_path.name,
    }


def _questions(recordings: Sequence[Recording]) -> int:
    return len({item.question for item in recordings})


def _version() -> str:
    from importlib import metadata

    return metadata.version("laconic")


def interrupted(options: CalibrateOptions) -> None:
    """What is said after Ctrl-C."""
    print(f"\ninterrupted; run it again and it goes on from {short(options.recordings_path)}", file=sys.stderr)
