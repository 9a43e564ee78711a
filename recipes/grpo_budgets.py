"""Budgets of tokens in the prompts of a grpo stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator
from pydantic_core import InitErrorDetails

from laconic.recipes.strict import Count, Fraction, Listed, NotEmpty, StrictModel, mistake, raise_all
from laconic.recipes.trainer_fields import default

if TYPE_CHECKING:
    from laconic.recipes.stage_parts import Reward

Point = Annotated[tuple[Fraction, Count, Count], Listed]
_OWN = "own_prompts"


class PromptBudgets(StrictModel):
    """Every prompt names a budget of tokens (L1, arXiv:2503.04697), which rewards find in the column `budget`.

    Each problem has `draws` budgets of its own, uniform between `low` and `high`, which depend on the stage's seed and
    the problem alone; a step picks one of them. Prompts that name an upper bound have a negative `budget`, as in the
    authors' data.
    """

    low: Count = 100
    """[tokens]"""
    high: Count = 4000
    """[tokens]"""
    exact: str = " Think for {budget} tokens."
    """Put after the prompt of a problem that is to be answered with that many tokens."""
    at_most: str = " Think for maximum {budget} tokens."
    """Put after the prompt of a problem whose budget is an upper bound."""
    at_most_share: Fraction = 0.0
    """Share of the prompts with an upper bound: 0 for L1-Exact, 0.5 for L1-Max."""
    draws: Count = 1
    """Budgets per problem. With 1, a problem asks for the same length whenever it comes, as in the authors' data."""
    schedule: Annotated[tuple[Point, ...], Listed, NotEmpty] | None = None
    """Points `[share of training, low, high]` with increasing shares, instead of `low` and `high`: straight lines
    between them, constant before the first and after the last. A problem keeps its place between the two. Ours."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = [] if self.low <= self.high else [_crossed(("high",), self.low, self.high)]
        if self.schedule is not None:
            # A stage file has every key in it, so what was set shows in the values.
            defaults = {key: type(self).model_fields[key].default for key in ("low", "high")}
            taken = {key for key, unset in defaults.items() if getattr(self, key) != unset}
            wrong += _schedule(self.schedule, taken)
        wrong += [
            mistake((key,), f"found {getattr(self, key)!r}; name the budget in it as {{budget}}")
            for key in ("exact", "at_most")
            if "{budget}" not in getattr(self, key)
        ]
        raise_all(wrong)
        return self

    def in_words(self) -> str:
        """One line: the sentences, how often each is asked, and the budgets.

        >>> PromptBudgets(at_most_share=0.5, high=200).in_words()
        '50% " Think for {budget} tokens.", 50% " Think for maximum {budget} tokens."; 100 to 200'
        """
        shares = ((1 - self.at_most_share, self.exact), (self.at_most_share, self.at_most))
        sentences = ", ".join(f"{share:.0%} {json.dumps(said, ensure_ascii=False)}" for share, said in shares if share)
        ends = ((self.low, self.high),) if self.schedule is None else [point[1:] for point in self.schedule]
        return f"{sentences}; {', then '.join(f'{low} to {high}' if low < high else str(low) for low, high in ends)}"


def budgets_mistakes(
    budgets: PromptBudgets | None, rewards: Sequence[Reward], trainer: Mapping[str, Any]
) -> list[InitErrorDetails]:
    """What of a stage does not go with its budgets, each with its place there.

    Args:
        budgets: Of the stage.
        rewards: Of the stage; some are for one kind of prompt alone.
        trainer: What the stage hands on to TRL.
    """
    if budgets is None:
        return []
    return [*_out_of_reach(budgets, trainer), *_of_both_kinds(budgets, rewards)]


def _out_of_reach(budgets: PromptBudgets, trainer: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Lengths that a prompt asks for exactly, and that no rollout can have."""
    limit = trainer.get("max_completion_length") or default("grpo", "max_completion_length")
    points = [(("high",), budgets.high)]
    if budgets.schedule is not None:
        points = [(("schedule", at), high) for at, (_, _, high) in enumerate(budgets.schedule)]
    message = f"of an exact length, and trainer.max_completion_length is {limit}; lower the one or raise the other"
    return [
        mistake(("budgets", *place), f"prompts ask for up to {high} tokens {message}", high)
        for place, high in points
        if high > limit and budgets.at_most_share < 1
    ]


def _of_both_kinds(budgets: PromptBudgets, rewards: Sequence[Reward]) -> list[InitErrorDetails]:
    """Rewards that would be paid for prompts that they are not for."""
    if budgets.at_most_share in (0, 1):
        return []
    message = f"at_most_share {budgets.at_most_share:g} makes prompts of both kinds, and this reward is for one of them"
    return [
        mistake(("rewards", at, _OWN), f"budgets: {message}; set {_OWN}: true", reward.name)
        for at, reward in enumerate(rewards)
        if reward.name in ("l1_exact", "l1_max") and not reward.entry.get(_OWN)
    ]


def _schedule(points: Sequence[tuple[float, int, int]], taken: set[str]) -> list[InitErrorDetails]:
    wrong = [mistake((key,), "schedule says it; leave one of them out") for key in sorted(taken)]
    if not all(early[0] < late[0] for early, late in pairwise(points)):
        shares = [point[0] for point in points]
        wrong.append(mistake(("schedule",), f"found the shares {shares}; each point comes after the one before"))
    return wrong + [_crossed(("schedule", at), low, high) for at, (_, low, high) in enumerate(points) if low > high]


def _crossed(place: tuple[str | int, ...], low: int, high: int) -> InitErrorDetails:
    return mistake(place, f"found low {low} and high {high}; the lower one comes first")
