"""Hint marginalisation: the model's own answers come back as hints, and their weight flows to what they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from laconic.inference.engine import Prompt
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.candidates import Candidate, decide, draw, together
from laconic.rewards.errors import RecipeError


def marginalise(prior: Sequence[float], drawn: Sequence[Sequence[int]], *, answers: int) -> list[float]:
    """One round: ``p'(y) = sum over hints h of p(h) P(y | h)``, with P from the answers drawn after each hint.

    A hint that led to no answer keeps its mass: nothing is known about where it leads (ours).

    >>> marginalise([0.5, 0.5], [[0, 0], [0, 1]], answers=2)
    [0.75, 0.25]

    Args:
        prior: Of the answers known so far, by their numbers.
        drawn: For each of them, the numbers of the answers it led to.
        answers: How many answers there are now.
    """
    posterior = [0.0] * answers
    for hint, (mass, led_to) in enumerate(zip(prior, drawn, strict=True)):
        for answer in led_to or [hint]:
            posterior[answer] += mass / len(led_to or [hint])
    return posterior


def hinted(prompt: Prompt, hint: str) -> Prompt:
    """The prompt, or the last message of a conversation, with the hint after it.

    >>> hinted("How many?", "7")
    'How many? (Hint: the answer is near to 7.)'
    """
    note = f" (Hint: the answer is near to {hint}.)"
    if isinstance(prompt, str):
        return prompt + note
    last = {**prompt[-1], "content": prompt[-1]["content"] + note}
    return [*prompt[:-1], last]


@policy(paper="arXiv:2412.13292")
@dataclass(frozen=True)
class HintMarginalisation:
    """Answers are drawn, then drawn again with each answer as a hint; the mode of the resulting distribution wins.

    Rule: ``p_0`` is the share of each answer among ``samples`` completions. In every round, ``per_hint`` completions
    are drawn for each answer that has any mass, with that answer as a hint, and ``p`` becomes
    ``sum over hints of p(hint) P(answer | hint)``. The answer with the largest p wins; of equal ones, the one seen
    first.

    From the paper: the recursion and the mode. Its sample counts were not verified: they, the number of rounds and the
    wording of the hint (after progressive-hint prompting) are ours.

    The returned completion is the last one drawn that has the winning answer, with or without a hint in its prompt.
    Completions that the token limit cut, or without an answer, count for nothing. Confidence: p of the answer.
    """

    samples: int = 8
    """Completions without a hint."""
    per_hint: int = 4
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1 or self.per_hint < 1 or self.rounds < 0:
            raise RecipeError(
                f"hint_marginalisation: {self}", cure="draw at least one completion, and one for each hint"
            )

    async def run(self, ask: Ask) -> Answer:
        """Draw, then hint round after round."""
        drawn = await draw(ask, range(self.samples))
        answers: list[str] = []
        first = [_number(ask, each, answers) for each in drawn if each.votes]
        if not first:
            return await decide(ask, drawn, None)
        p = [first.count(number) / len(first) for number in range(len(answers))]
        history = [p]
        for number in range(self.rounds):
            fresh = await self._round(ask, p, answers, start=self.samples + number * self.per_hint)
            led_to = [[_number(ask, each, answers) for each in of_hint if each.votes] for of_hint in fresh]
            p = marginalise(p, led_to, answers=len(answers))
            history.append(p)
            drawn += [each for of_hint in fresh for each in of_hint]
        mode = max(range(len(p)), key=lambda number: p[number])
        winner = next(each for each in reversed(drawn) if each.votes and _number(ask, each, answers) == mode)
        return await decide(ask, drawn, winner, confidence=p[mode], notes={"answers": answers, "history": history})

    async def _round(
        self, ask: Ask, p: Sequence[float], answers: Sequence[str], *, start: int
    ) -> list[list[Candidate]]:
        """Completions for each answer, none for those without mass."""
        asks = [replace(ask, prompt=hinted(ask.prompt, answer)) for answer in answers]
        sizes = [self.per_hint if mass > 0 else 0 for mass in p]
        return await together(draw(each, range(start, start + size)) for each, size in zip(asks, sizes, strict=True))


def _number(ask: Ask, candidate: Candidate, answers: list[str]) -> int:
    """The number of its answer, which is entered if it is new."""
    assert candidate.answer is not None
    place = ask.find(candidate.answer, answers)
    if place is None:
        answers.append(candidate.answer)
        return len(answers) - 1
    return place
