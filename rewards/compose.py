"""One entry of a recipe's ``rewards:`` list, checked and put together::

    - {name: kimi_length, weight: 0.4, warmup: {share: 0.2}}
    - {name: hapo, gate: {kind: running_best, tolerance: 0.05}, schedule: {steps: [[0, 1.0], [500, 0.2]]}}
    - {name: shorter_better, tasks: [math, gsm8k], times_correct: true, length_weight: 0.002}

Every key that is not in `RESERVED` is a parameter of the reward; ``judge`` names the function that a judged reward
asks, or is that function where an entry is written in Python. The wrappers of `laconic.rewards.schedule` go round it
from the inside out: the reward, ``times_correct``, ``gate``, ``warmup``, ``schedule``, ``tasks``. So a gate judges a
batch by the tasks of its entry, and keeps watching during the warm-up. ``weight`` is left to who adds the entries up.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from laconic.rewards import registry
from laconic.rewards.errors import RecipeError
from laconic.rewards.judge import Judge, Judged, load_judge
from laconic.rewards.parameters import parameters_of
from laconic.rewards.registry import RESERVED, Scorer
from laconic.rewards.schedule import (
    AdaptiveWeight,
    ForTasks,
    RunningBestGate,
    Schedule,
    TimesCorrect,
    TopShare,
    Warmup,
    WeightedSum,
    Wrapper,
)

__all__ = ["GATES", "RESERVED", "check_entry", "compose", "judge_of", "parameters_given", "weighted"]

GATES: Mapping[str, type[Wrapper]] = {
    "running_best": RunningBestGate,
    "adaptive": AdaptiveWeight,
    "top_share": TopShare,
}
"""What ``gate: {kind: ...}`` can name; its other keys are the gate's parameters."""


def check_entry(entry: Mapping[str, Any]) -> None:
    """Check one entry of a recipe's ``rewards:`` list; imports neither torch nor the judge.

    Raises:
        RecipeError: names the key, the value, what is legal, and the nearest right key.
    """
    name = entry.get("name")
    if not isinstance(name, str):
        raise RecipeError(f"rewards: name is {name!r}", cure="name a reward; `laconic list rewards` has them all")
    registered = registry.find(name)
    for key in parameters_given(entry):
        if key not in registered.parameters:
            raise _unknown(name, key, [*registered.parameters, *sorted(RESERVED)])
    registry.check(name, parameters_given(entry))
    if not _is_number(entry.get("weight", 1.0)):
        raise _wrong(name, "weight", entry["weight"], "a finite number")
    if not isinstance(entry.get("times_correct", False), bool):
        raise _wrong(name, "times_correct", entry["times_correct"], "true or false")
    for key, check in (("gate", _check_gate), ("warmup", _check_warmup), ("schedule", _check_schedule)):
        if key in entry:
            check(name, _mapping(name, key, entry[key]))
    if "tasks" in entry:
        _check_tasks(name, entry["tasks"])
    _check_judge(entry, registered)


def compose(entry: Mapping[str, Any]) -> Scorer:
    """The reward of a checked entry in its wrappers, without its ``weight``.

    Raises:
        RecipeError: see `check_entry`.
    """
    check_entry(entry)
    scorer = registry.find(entry["name"]).build(parameters_given(entry))
    if entry.get("times_correct"):
        scorer = TimesCorrect(scorer)
    if "gate" in entry:
        given = dict(entry["gate"])
        scorer = GATES[given.pop("kind")](scorer, **given)
    if "warmup" in entry:
        scorer = Warmup(scorer, **entry["warmup"])
    if "schedule" in entry:
        scorer = Schedule(scorer, **entry["schedule"])
    return ForTasks(scorer, entry["tasks"]) if "tasks" in entry else scorer


def judge_of(entry: Mapping[str, Any]) -> tuple[Judge, Judged] | None:
    """The judge that the entry's reward asks, imported, and what it is asked; None for a reward without one.

    Raises:
        RecipeError: the reward needs a judge and the entry names none, or the one it names cannot be imported.
    """
    registered = registry.find(entry["name"])
    _check_judge(entry, registered)
    if registered.judged is None:
        return None
    place = entry["judge"]
    return (place if callable(place) else load_judge(place)), registered.judged


def weighted(entries: Sequence[Mapping[str, Any]]) -> Scorer:
    """The weighted sum of several entries, as TRL adds its reward functions up.

    Raises:
        RecipeError: see `check_entry`.
    """
    return WeightedSum([(float(entry.get("weight", 1.0)), compose(entry)) for entry in entries])


def parameters_given(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The reward's own parameters in an entry."""
    return {key: value for key, value in entry.items() if key not in RESERVED}


def _check_gate(name: str, given: Mapping[str, Any]) -> None:
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in GATES:
        raise _wrong(name, "gate.kind", kind, f"one of {', '.join(GATES)}", GATES)
    _check_keywords(name, "gate", GATES[kind], {key: value for key, value in given.items() if key != "kind"})


def _check_warmup(name: str, given: Mapping[str, Any]) -> None:
    _check_one_of(name, "warmup", given)
    _check_keywords(name, "warmup", Warmup, given)


def _check_schedule(name: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in ("steps", "share"):
            raise _unknown(name, f"schedule.{key}", ["schedule.steps", "schedule.share"])
    _check_one_of(name, "schedule", given)
    ((unit, points),) = ((unit, points) for unit, points in given.items() if points is not None)
    legal = "a list of [position, weight] with increasing positions"
    if not _is_list(points) or not points or not all(_is_point(point) for point in points):
        raise _wrong(name, f"schedule.{unit}", points, legal)
    positions = [point[0] for point in points]
    rising = all(early < late for early, late in pairwise(positions))
    if not rising or positions[0] < 0 or (unit == "share" and positions[-1] > 1):
        top = "between 0 and 1" if unit == "share" else "from 0"
        raise _wrong(name, f"schedule.{unit}", points, f"{legal}, {top}")


def _check_tasks(name: str, tasks: Any) -> None:
    if not _is_list(tasks) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise _wrong(name, "tasks", tasks, "a list with at least one task's name")


def _check_judge(entry: Mapping[str, Any], registered: registry.Reward) -> None:
    name, place = entry["name"], entry.get("judge")
    if registered.judged is None:
        if "judge" in entry:
            raise RecipeError(f"reward {name}: judge is {place!r}", cure="leave it out: this reward asks no judge")
    elif place is None:
        raise RecipeError(
            f"reward {name} needs a judge, which is asked: {registered.judged.asks}",
            cure="set judge: package.module:function, an async function from one rollout's columns to an answer",
        )
    elif not callable(place) and (not isinstance(place, str) or not all(place.partition(":"))):
        raise _wrong(name, "judge", place, "an async function as package.module:function")


def _check_keywords(name: str, path: str, wrapper: Callable[..., Any], given: Mapping[str, Any]) -> None:
    known = parameters_of(wrapper)
    for key, value in given.items():
        if key not in known:
            raise _unknown(name, f"{path}.{key}", [f"{path}.{item}" for item in known])
        dataclasses.replace(known[key], name=f"{path}.{key}").check(name, value)


def _check_one_of(name: str, path: str, given: Mapping[str, Any]) -> None:
    if len([key for key in ("steps", "share") if given.get(key) is not None]) != 1:
        raise _wrong(name, path, dict(given), f"exactly one of {path}.steps and {path}.share")


def _mapping(name: str, path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        examples = {"gate": "{kind: running_best}", "warmup": "{steps: 100}", "schedule": "{share: [[0, 0], [0.5, 1]]}"}
        raise _wrong(name, path, value, f"a mapping such as {examples[path]}")
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_point(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, path: str, value: Any, legal: str, choices: Collection[str] = ()) -> RecipeError:
    near = difflib.get_close_matches(str(value), choices, n=1)
    return RecipeError(
        f"reward {name}: {path} is {value!r}", cure=f"make it {legal}" + (f"; did you mean {near[0]}?" if near else "")
    )


def _unknown(name: str, path: str, known: Collection[str]) -> RecipeError:
    near = difflib.get_close_matches(path, known, n=1)
    cure = f"did you mean {near[0]}?" if near else f"legal are {', '.join(known)}"
    return RecipeError(f"reward {name}: unknown key {path!r}", cure=cure)
