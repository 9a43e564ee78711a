"""From which length on an entry of a recipe's ``rewards:`` list cannot tell rollouts apart any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.rewards import registry
from laconic.rewards.compose import parameters_given
from laconic.rewards.errors import RecipeError

_LOOK_AT_VERDICTS = {
    "gate": "the gate follows how many rollouts of a batch are right, those that would be stopped too",
    "times_correct": "times_correct makes it depend on the verdict at any length",
}


def length_cap(entry: Mapping[str, Any]) -> float:
    """The length above which all rollouts of an entry earn the same, whatever else they are.

    A warm-up, a schedule and a choice of tasks look at no rollout and leave it as it is. A gate and `times_correct`
    look at verdicts, and a rollout that was stopped may have another verdict than it would have had.

    Args:
        entry: A checked entry.

    Raises:
        RecipeError: there is none; names the reward.
    """
    name = entry["name"]
    registered = registry.find(name)
    capped = ", ".join(item.name for item in registry.REWARDS.values() if item.cap is not None)
    cure = f"leave stop_early out; it goes with rewards that have a limit of their own ({capped})"
    if registered.cap is None:
        raise RecipeError(f"reward {name} tells rollouts apart at any length", cure=cure)
    cap = registered.cap_length(parameters_given(entry))
    if cap is None:
        raise RecipeError(
            f"reward {name} has no limit while {registered.cap_wants} is null",
            cure=f"set {registered.cap_wants}, or leave stop_early out",
        )
    for key, why in _LOOK_AT_VERDICTS.items():
        if entry.get(key):
            raise RecipeError(f"reward {name}: {why}", cure=f"leave {key} or stop_early out")
    return cap
