"""What step-level policies share: a partial completion that grows by one step, is scored, forked and settled.

A step ends at a separator, by default an empty line. Where a step closes the thinking it goes on in the answer, so the
two are accounted apart. The budget of one path is that of one completion; each path has its own.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from laconic.inference.engine import Branch, Capability, Sampling, Token
from laconic.inference.ledger import Role
from laconic.inference.policies import candidates
from laconic.inference.policies.base import Answer, Ask
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import LaunchError, RecipeError

SEPARATOR = "\n\n"
STEPWISE = (Capability.PREFIX, Capability.STOP, Capability.FORK)
"""What growing and forking paths needs."""

Aggregation: TypeAlias = Literal["last", "min", "prod"]
Result = TypeVar("Result")


@dataclass(eq=False)
class Path:
    """A partial completion: a branch and what is known of it."""

    branch: Branch
    spent: int = 0
    """Generated tokens so far, against the budget of one completion."""
    finish: Literal["stop", "length"] | None = None
    """How it ended; None while it can go on."""
    scores: tuple[float, ...] = ()
    """Of its steps, in order."""
    step: str = ""
    """The text of its latest step."""
    tokens: tuple[Token, ...] = ()
    """What was generated for its latest step."""

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self.branch.text

    async def fork(self, ask: Ask) -> Path:
        """A second path that goes its own way from here."""
        return replace(self, branch=await ask.fork(self.branch))

    async def forks(self, ask: Ask, count: int) -> list[Path]:
        """This path and `count - 1` forks of it."""
        return [self, *[await self.fork(ask) for _ in range(count - 1)]]

    async def grow(
        self,
        ask: Ask,
        *,
        separator: str = SEPARATOR,
        to_end: bool = False,
        max_tokens: int | None = None,
        role: Role | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """Generate one step; nothing happens to a path that has ended.

        Args:
            ask: The question.
            separator: Ends a step and stays in the text.
            to_end: Go on to the end of the completion instead.
            max_tokens: Of this step at most; the path can go on after it.
            role: What the tokens are for, if not for the trace itself.
            sampling: Instead of the question's own.
        """
        if self.finish is not None:
            return
        before, self.tokens = len(self.text), ()
        cap = ask.sampling.max_tokens if max_tokens is None else max_tokens
        while await self._generate(ask, [] if to_end else [separator], cap, role, sampling):
            pass  # the step closed the thinking, and goes on
        self.step = self.text[before:]

    async def _generate(
        self, ask: Ask, stop: list[str], cap: int, role: Role | None, sampling: Sampling | None
    ) -> bool:
        thinking = ask.think_close not in self.text
        chunk = await self.branch.generate(
            max_tokens=min(ask.sampling.max_tokens - self.spent, cap - len(self.tokens)),
            stop=[*stop, ask.think_close] if thinking else stop,
            keep_stop=True,
            role=role or ("think" if thinking else "answer"),
            sampling=sampling,
        )
        self.spent += len(chunk.tokens)
        self.tokens += chunk.tokens
        if role is None and thinking and not ask.opens_thinking and ask.think_open not in self.text:
            self.branch.relabel("answer")  # it answers without thinking
        if chunk.ended:
            self.finish = "stop"
        elif self.spent >= ask.sampling.max_tokens:
            self.finish = "length"
        return self.finish is None and thinking and chunk.stop == ask.think_close and len(self.tokens) < cap


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """One number for a path from the scores of its steps: the last, the smallest, or the product of all.

    >>> [round(aggregate([0.9, 0.4, 0.8], how), 3) for how in ("last", "min", "prod")]
    [0.8, 0.4, 0.288]
    """
    return float({"last": lambda: scores[-1], "min": lambda: min(scores), "prod": lambda: np.prod(scores)}[how]())


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities proportional to exp(value / temperature).

    >>> softmax([1.0, 1.0])
    [0.5, 0.5]
    """
    raised = np.asarray(values, dtype=float) / temperature
    weights = np.exp(raised - raised.max())
    return (weights / weights.sum()).tolist()


def draw_without_replacement(weights: Sequence[float], count: int, rng: np.random.Generator) -> list[int]:
    """Different places, drawn one after the other in proportion to what is left of `weights`; at most `count`.

    Places of weight zero are drawn last, by their order.
    """
    weights = np.asarray(weights, dtype=float)
    possible = np.flatnonzero(weights)
    share = weights / weights.sum() if len(possible) else weights
    drawn = rng.choice(len(weights), size=min(count, len(possible)), replace=False, p=share).tolist() if count else []
    rest = [place for place in range(len(weights)) if place not in possible]
    return drawn + rest[: max(0, count - len(drawn))]


async def score_texts(ask: Ask, texts: Sequence[str], *, bounded: bool = False) -> list[float]:
    """The scorer's numbers, one per text.

    Raises:
        LaunchError: not as many numbers as texts; or, if `bounded`, one is not between 0 and 1.
    """
    scores = [float(score) for score in (await ask.score(texts) if texts else ())]
    if len(scores) != len(texts):
        raise LaunchError(f"the scorer gave {len(scores)} numbers for {len(texts)} texts", cure="give one for each")
    wrong = [score for score in scores if not (0.0 <= score <= 1.0 if bounded else score == score)]
    if wrong:
        raise LaunchError(
            f"the scorer gave {wrong[0]}", cure="give numbers from 0 to 1" if bounded else "give numbers, never NaN"
        )
    return scores


async def score_paths(ask: Ask, paths: Sequence[Path], *, bounded: bool = False) -> None:
    """Score the latest step of each path, which is entered into its `scores`."""
    for path, score in zip(paths, await score_texts(ask, [path.text for path in paths], bounded=bounded), strict=True):
        path.scores = (*path.scores, score)


async def together(ask: Ask, jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all at once and wait for all; if one fails the others are cancelled, and what they generated is counted."""
    results = await candidates.together(jobs)
    ask.ledger.barrier()
    return results


async def discard(paths: Iterable[Path]) -> None:
    """Close them: nothing of them is used."""
    for path in paths:
        await path.branch.close("discarded")


async def settle(ask: Ask, chosen: Path, others: Iterable[Path] = (), notes: Mapping[str, Any] | None = None) -> Answer:
    """Close everything and answer with the chosen path; finished others took part in the decision."""
    await chosen.branch.close("kept")
    for path in others:
        await path.branch.close("voted" if path.finish == "stop" else "discarded")
    finish = chosen.finish or "policy_stop"
    return Answer(chosen.text, answer_of(ask, chosen.text), finish, ask.ledger, notes=notes or {})


def check(fine: bool, message: str, cure: str) -> None:
    """Refuse a parameter.

    Raises:
        RecipeError: it is not fine.
    """
    if not fine:
        raise RecipeError(message, cure=cure)


def check_steps(*, max_steps: int, separator: str) -> None:
    """Refuse what no step-level policy can work with.

    Raises:
        RecipeError: no step, or an empty separator.
    """
    check(max_steps >= 1, f"max_steps={max_steps}", "allow at least one step")
    check(bool(separator), "separator is empty", "give the text that ends a step")
