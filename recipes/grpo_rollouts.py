"""How a grpo stage draws the rollouts of a group, where a paper does not sample them freely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction as Rational
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import InitErrorDetails

from laconic.inference.trace import THINK_CLOSE
from laconic.recipes.grpo_advantages import ignored, mixing
from laconic.recipes.strict import Count, Listed, Location, NotEmpty, StrictModel, mistake, raise_all, shown
from laconic.recipes.trainer_fields import default

ONLY_TRL: Mapping[str, Any] = {
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
    "cache_implementation": None,
    "ds3_gather_for_generation": True,
}
"""Settings of TRL's own generation that Laconic's engine does not have, and their values that ask for nothing; free
rollouts under any other value are TRL's."""


class Mode(StrictModel):
    """How some rollouts of every group begin."""

    text: Annotated[str, Field(min_length=1)]
    """What they begin with; the model goes on from there."""
    mode: Literal["think", "no_think", "direct", "short_cot", "code", "long_cot"]
    """What it is to rewards and advantages: the column `mode`."""
    max_tokens: Count | None = None
    """Tokens of a rollout at most, those of the text included; unset means `max_completion_length`."""
    share: Annotated[float, Field(gt=0.0)] = 1.0
    """Of the group's rollouts, in any unit: only the proportions count."""


class Modes(StrictModel):
    """Parts of every group begin with given text (AdaptThink, HGPO)."""

    name: Literal["modes"]
    modes: Annotated[tuple[Mode, ...], Listed, NotEmpty]
    """The first of them begin a group, then come those of the second, and so on."""
    first_token_probability: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """What the loss takes for the probability with which the first token was drawn (AdaptThink: 0.5, a mode's share of
    the group); unset means what the model gave it, though it was not drawn."""

    @property
    def shares(self) -> tuple[Rational, ...]:
        """Of each mode; they add up to 1."""
        # As written: 0.1 in binary is no tenth.
        parts = [Rational(str(mode.share)) for mode in self.modes]
        return tuple(part / sum(parts) for part in parts)

    def places(self, size: int) -> tuple[Mode, ...]:
        """The modes of a group's rollouts, in their order.

        Args:
            size: Rollouts of a group, of which every mode's share is a whole number.
        """
        pairs = zip(self.modes, self.shares, strict=True)
        return tuple(mode for mode, share in pairs for _ in range(int(share * size)))

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(self.modes) < 2:
            raise_all([mistake(("modes",), f"found {len(self.modes)}; at least two modes make a choice")])
        texts = [mode.text for mode in self.modes]
        raise_all(
            [
                mistake(("modes", at, "text"), f"{text!r} stands twice; every mode begins with a text of its own")
                for at, text in enumerate(texts)
                if text in texts[:at]
            ]
        )
        return self

    def misfits(self, trainer: Mapping[str, Any]) -> list[tuple[Location, str]]:
        """What does not go with the trainer's settings: places below the stage, and why."""
        found = []
        size, limit = _group(trainer)
        counts = [share * size for share in self.shares]
        if any(count.denominator > 1 for count in counts):
            made = " and ".join(f"{float(count):.4g}" for count in counts)
            legal = " or ".join(map(str, self._whole_groups(size)))
            message = f"found {size}, of which rollouts.modes get {made}; the nearest that can be divided so: {legal}"
            found.append((("trainer", "num_generations"), message))
        for at, mode in enumerate(self.modes):
            if mode.max_tokens is not None and mode.max_tokens > limit:
                message = f"found {mode.max_tokens}; trainer.max_completion_length is {limit}"
                found.append((("rollouts", "modes", at, "max_tokens"), message))
        return found + (self._of_first_tokens(trainer) if self.first_token_probability is not None else [])

    def _of_first_tokens(self, trainer: Mapping[str, Any]) -> list[tuple[Location, str]]:
        """Settings that would take the first token's given probability for that of the model."""
        given = f"rollouts.first_token_probability {self.first_token_probability:g} is not what the model gave"
        cure = "leave one of the two out"
        found: list[tuple[Location, str]] = []
        if (threshold := trainer.get("off_policy_mask_threshold")) is not None:
            message = f"found {threshold:g}; {given}, and would count as its drift; {cure}"
            found.append((("trainer", "off_policy_mask_threshold"), message))
        if trainer.get("loss_type") == "vespo":
            message = f"found 'vespo', which weighs a rollout by all its ratios; {given}; {cure}"
            found.append((("trainer", "loss_type"), message))
        return found

    def _whole_groups(self, size: int) -> list[int]:
        """The sizes next to `size` at which every mode has a whole number of rollouts."""
        unit = math.lcm(*(share.denominator for share in self.shares))
        return [near for near in (size // unit * unit, (size // unit + 1) * unit) if near]


class EarlyExits(StrictModel):
    """Chains of thought are cut and made to answer (S-GRPO, JET)."""

    name: Literal["early_exits"]
    cuts: Literal["random"] | Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Listed, NotEmpty]
    """Where a free rollout's thinking is cut. `random`: uniformly, after its first token or any other, as often as the
    group has room (S-GRPO). A list, ascending: after these shares of its tokens (JET: 0.25, 0.5, 0.75)."""
    cue: Annotated[str, Field(min_length=1)]
    """What is put after a cut; it ends the thinking."""
    free: Count = 1
    """Rollouts of every group that are drawn freely, the first of them; the others are cuts of theirs, as many of each:
    first those of the first one, from short to long, and so on."""
    answer_tokens: Count | None = None
    """Generated tokens after the cue at most (JET: 50); unset means what `max_completion_length` leaves."""
    learn_cue: bool = False
    """Have the cue's tokens in the loss (JET)."""

    def exits(self, size: int) -> int:
        """Cuts of every free rollout.

        Args:
            size: Rollouts of a group.
        """
        return len(self.cuts) if isinstance(self.cuts, tuple) else size // self.free - 1

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        wrong = _without_end(("cue",), self.cue)
        if isinstance(self.cuts, tuple) and list(self.cuts) != sorted(set(self.cuts)):
            found = list(self.cuts)
            wrong.append(mistake(("cuts",), f"found {found}; list every share once, ascending: {sorted(set(found))}"))
        raise_all(wrong)
        return self

    def misfits(self, trainer: Mapping[str, Any]) -> list[tuple[Location, str]]:
        """What does not go with the trainer's settings: places below the stage, and why."""
        size, limit = _group(trainer)
        exits, found = self.exits(size), []
        legal = self.free * (1 + max(exits, 1))
        if legal != size:
            message = f"found {size}; free rollouts: {self.free}, cuts of each: {max(exits, 1)}, together {legal}"
            found.append((("trainer", "num_generations"), f"{message}; set it to that, or change rollouts"))
        if self.answer_tokens is not None and self.answer_tokens >= limit:
            message = f"found {self.answer_tokens}, which leaves no thinking of max_completion_length {limit}"
            found.append((("rollouts", "answer_tokens"), f"{message}; lower the one or raise the other"))
        return found


class Budgets(StrictModel):
    """A chain of thought is made to answer at several budgets (BRPO)."""

    name: Literal["budgets"]
    budgets: Annotated[tuple[Count, ...], Listed, NotEmpty]
    """Tokens of thinking after which an answer is asked for, ascending; the last is where thinking is cut."""
    prior: Literal["uniform", "linear", "base"] = "uniform"
    """How much the answers of each budget count for the thinking: all alike, in proportion to the budget, or the last
    alone."""
    answers: Annotated[int, Field(ge=2)] = 4
    """Drawn at each budget; they are compared with each other."""
    cue: Annotated[str, Field(min_length=1)] = "...\n\n...\n\n</think>\n\n**Final Answer**\n"
    """What is put after thinking that a budget cuts; it ends the thinking."""
    closed_cue: str = "\n\n**Final Answer**\n"
    """What is put after thinking that came to its own end."""
    answer_tokens: Count = 118
    """Generated tokens of an answer at most."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Of each budget's answers; they add up to 1."""
        parts = {"uniform": [1] * len(self.budgets), "linear": self.budgets, "base": [0] * len(self.budgets[1:]) + [1]}
        return tuple(part / sum(parts[self.prior]) for part in parts[self.prior])

    @property
    def rows(self) -> int:
        """Rollouts, in the trainer's sense, that one chain of thought becomes: each answer is one."""
        return len(self.budgets) * self.answers

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        wrong = _without_end(("cue",), self.cue)
        if list(self.budgets) != sorted(set(self.budgets)):
            found = list(self.budgets)
            message = f"found {found}; list every budget once, ascending: {sorted(set(found))}"
            wrong.append(mistake(("budgets",), message))
        raise_all(wrong)
        return self

    def misfits(self, trainer: Mapping[str, Any]) -> list[tuple[Location, str]]:
        """What does not go with the trainer's settings: places below the stage, and why."""
        size, limit = _group(trainer)
        least, found = self.budgets[-1] + self.answer_tokens, []
        if size % self.rows:
            legal = " or ".join(str(count * self.rows) for count in (size // self.rows, size // self.rows + 1) if count)
            made = f"{len(self.budgets)} budgets with {self.answers} answers each"
            message = f"found {size}; a chain of thought is {self.rows} rollouts ({made}), so set it to {legal}"
            found.append((("trainer", "num_generations"), message))
        if least >= limit:
            message = f"found {limit}; thinking takes {self.budgets[-1]} and an answer {self.answer_tokens} tokens"
            found.append((("trainer", "max_completion_length"), f"{message}, so with the cue more than {least}"))
        if trainer.get("mask_truncated_completions"):
            why = "an answer that is cut could take the thinking of all answers with it, which is in the loss once"
            found.append((("trainer", "mask_truncated_completions"), f"{why}; leave it out"))
        return found + [(("trainer", key), why) for key, why in self._unfit(trainer)]

    def _unfit(self, trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What would do nothing beside BRPO's advantages, or undo them."""
        what = "rollouts: {name: budgets}"
        yield from ignored(what, trainer)
        lost = f"one threshold over all tokens would choose between the thinking and the answers of {what}"
        yield from mixing(trainer, apart=f"{what} sets thinking and answers apart", lost=lost)


def _group(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """Rollouts of a group, and tokens of a rollout at most."""
    size = trainer.get("num_generations") or default("grpo", "num_generations")
    return size, trainer.get("max_completion_length") or default("grpo", "max_completion_length")


def _without_end(place: Location, cue: str) -> list[InitErrorDetails]:
    if THINK_CLOSE in cue:
        return []
    return [mistake(place, f"found {cue!r}, which does not end the thinking; put {THINK_CLOSE} into it")]


RolloutsSpec: TypeAlias = Annotated[Modes | EarlyExits | Budgets, Field(discriminator="name")]


def rollouts_clashes(
    rollouts: RolloutsSpec | None, *, advantages: bool, prompt_budgets: bool
) -> list[InitErrorDetails]:
    """What of a stage does not go with its rollouts, each with its place in the stage.

    Args:
        rollouts: Of the stage.
        advantages: It has some of its own.
        prompt_budgets: Its prompts name budgets.
    """
    wrong = []
    if advantages and isinstance(rollouts, Budgets):
        wrong.append(mistake(("advantages",), "rollouts: {name: budgets} bring their own (BRPO's); leave it out"))
    if prompt_budgets and isinstance(rollouts, EarlyExits | Budgets):
        message = f"rollouts: {{name: {rollouts.name}}} end where that says, not where a prompt does; leave one out"
        wrong.append(mistake(("budgets",), message))
    return wrong


def rollouts_mistakes(rollouts: RolloutsSpec | None, trainer: Mapping[str, Any]) -> list[InitErrorDetails]:
    """What does not go with the trainer's settings, each with its place in the stage."""
    if rollouts is None:
        return []
    found = rollouts.misfits(trainer)
    if trainer.get("use_vllm"):
        message = f"rollouts: {{name: {rollouts.name}}} are drawn by Laconic's own engine; leave one of the two out"
        found.append((("trainer", "use_vllm"), message))
    for key, neutral in ONLY_TRL.items():
        if (value := trainer.get(key, neutral)) != neutral:
            why = f"rollouts: {{name: {rollouts.name}}} are drawn by Laconic's own engine, which has no such setting"
            found.append((("trainer", key), f"found {shown(value)}; {why}; leave it out"))
    return [mistake(place, why) for place, why in found]
