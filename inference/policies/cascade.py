"""Cascades: cheap engines answer first, and dearer ones only what those are not sure of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from laconic.inference.engine import Branch, Capability, Chunk, Engine, Token, check_capabilities
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.plain import answer_of, finish, phases
from laconic.rewards.errors import LaunchError, RecipeError

Method = Literal["avg_logprob", "margin"]


def cascade_stage(scores: Sequence[float], thresholds: Sequence[float]) -> int:
    """The stage that answers: the first whose score is at least its threshold, else the last.

    Args:
        scores: Of the stages' answers; those after the accepted one are not looked at.
        thresholds: One per stage but the last, which is always accepted.

    >>> cascade_stage([0.4, 0.9], [0.5, 0.9]), cascade_stage([0.4, 0.8], [0.5, 0.9])
    (1, 2)
    """
    reached = (place for place, (score, need) in enumerate(zip(scores, thresholds, strict=False)) if score >= need)
    return next(reached, len(thresholds))


def named_engine(ask: Ask, name: str) -> Engine:
    """One of the question's further engines.

    Raises:
        LaunchError: there is none of that name.
    """
    if name not in ask.engines:
        have = ", ".join(sorted(ask.engines)) or "none"
        raise LaunchError(f"there is no engine {name!r}", cure=f"pass it in engines=; there are: {have}")
    return ask.engines[name]


@policy(paper="arXiv:2305.05176", scorer=True, engines=lambda chosen: tuple(chosen.engines))
@dataclass(frozen=True)
class Cascade:
    """Ask ordered engines, cheapest first; return the first answer that the scorer finds good enough.

    Stage i is accepted if its score is at least ``thresholds[i]``; the last stage always. `cascade_fit`
    finds the thresholds. Source: FrugalGPT. The released code accepts ``1 - score < threshold``.

    Ours: an answer that was cut or cannot be read goes on to the next stage without being scored.

    Deviations: thresholds are fitted by exact enumeration; see there.
    """

    engines: tuple[str, ...] = ("small", "large")
    """Names in `Ask.engines`, cheapest first."""
    thresholds: tuple[float, ...] = (0.5,)
    """One per engine but the last, in the scorer's units; ours, to be fitted."""

    def __post_init__(self) -> None:
        _check_stages(self)

    async def run(self, ask: Ask) -> Answer:
        """Go up until one is accepted."""
        stages = [named_engine(ask, name) for name in self.engines]
        scores: list[float] = []
        for stage, engine in enumerate(stages):
            branch = ask.open(sample=stage, engine=engine, follow=stage == len(self.thresholds))
            finished = await finish(ask, branch, budget=ask.sampling.max_tokens)
            answer = answer_of(ask, branch.text) if finished else None
            if stage < len(self.thresholds):
                scores.append(math.nan if answer is None else (await ask.score([branch.text]))[0])
            if cascade_stage(scores, self.thresholds[: stage + 1]) == stage:
                return await _accepted(ask, self.engines, stage, branch, finished, scores)
            await branch.close("discarded")
        raise AssertionError("the last stage is always accepted")


@policy(paper="arXiv:2310.12963", engines=lambda chosen: tuple(chosen.engines))
@dataclass(frozen=True)
class ConfidenceCascade:
    """Ask ordered engines, smallest first; return the first answer that its own engine is confident of.

    Confidence is read from the log-probabilities of the final answer's tokens, the thinking left out:
    `average_probability` or `mean_margin`. Source: the idea is AutoMix's; the two statistics are those of
    semantic-router's looper, whose margin threshold is 0.5.

    Ours: which tokens are read, and the threshold of avg_logprob.

    Deviations: semantic-router compares a value in 0 to 1 with a default of -1, and so never escalates.
    """

    engines: tuple[str, ...] = ("small", "large")
    """Names in `Ask.engines`, smallest first."""
    method: Method = "avg_logprob"
    """What confidence is: the mean probability of the tokens, or the mean distance of the two most likely ones."""
    thresholds: tuple[float, ...] = (0.5,)
    """One per engine but the last, in 0 to 1."""

    def __post_init__(self) -> None:
        _check_stages(self)
        if self.method not in ("avg_logprob", "margin"):
            raise RecipeError(f"confidence_cascade: method {self.method!r}", cure="choose avg_logprob or margin")
        if not all(0.0 <= threshold <= 1.0 for threshold in self.thresholds):
            raise RecipeError(f"confidence_cascade: thresholds {self.thresholds}", cure="confidences are in 0 to 1")

    async def run(self, ask: Ask) -> Answer:
        """Go up until one is confident."""
        stages = [named_engine(ask, name) for name in self.engines]
        needed = Capability.LOGPROBS if self.method == "avg_logprob" else Capability.TOP_LOGPROBS
        for engine in stages[:-1]:
            check_capabilities(engine, [needed], who="policy confidence_cascade")
        scores: list[float] = []
        for stage, engine in enumerate(stages):
            branch = ask.open(sample=stage, engine=engine, follow=stage == len(self.thresholds))
            top = 2 if self.method == "margin" else 0
            chunks = [c async for c in phases(ask, branch, budget=ask.sampling.max_tokens, top_logprobs=top)]
            finished = chunks[-1].ended
            if stage < len(self.thresholds):
                readable = finished and answer_of(ask, branch.text) is not None
                scores.append(self._confidence(chunks[-1].tokens) if readable else math.nan)
            if cascade_stage(scores, self.thresholds[: stage + 1]) == stage:
                return await _accepted(ask, self.engines, stage, branch, finished, scores)
            await branch.close("discarded")
        raise AssertionError("the last stage is always accepted")

    def _confidence(self, tokens: Sequence[Token]) -> float:
        # End-of-sequence adds no text, and says nothing about the answer.
        written = tuple(token for token in tokens if token.text)
        if self.method == "avg_logprob":
            return average_probability(Chunk("", written, "eos").logprobs)
        return mean_margin([token.top or () for token in written])


def average_probability(logprobs: ArrayLike) -> float:
    """Geometric mean of token probabilities, ``exp(mean log p)``, in 0 to 1.

    >>> round(average_probability([-0.1, -0.3]), 6)
    0.818731
    """
    return float(np.exp(np.mean(np.asarray(logprobs, dtype=float))))


def mean_margin(tops: Sequence[Sequence[float]]) -> float:
    """Mean difference of the probabilities of the best and the second-best token, in 0 to 1.

    Args:
        tops: Per token, the log-probabilities of the most likely ones, best first.

    Raises:
        LaunchError: fewer than two were given for some token.
    """
    if not all(len(top) >= 2 for top in tops):
        raise LaunchError("the engine gave fewer than two top log-probabilities", cure="use an engine that has them")
    return float(np.mean([math.exp(top[0]) - math.exp(top[1]) for top in tops]))


async def _accepted(
    ask: Ask, engines: Sequence[str], stage: int, branch: Branch, finished: bool, scores: Sequence[float]
) -> Answer:
    ask.tell(branch.text, branch)
    await branch.close("kept")
    seen = [score if math.isfinite(score) else None for score in scores]
    notes = {"stage": stage, "engine": engines[stage], "scores": seen}
    answer = answer_of(ask, branch.text)
    return Answer(branch.text, answer, "stop" if finished else "length", ask.ledger, notes=notes)


def _check_stages(cascade: Cascade | ConfidenceCascade) -> None:
    if len(cascade.engines) < 2 or len(cascade.thresholds) != len(cascade.engines) - 1:
        message = f"a cascade of {len(cascade.engines)} engines with {len(cascade.thresholds)} thresholds"
        raise RecipeError(message, cure="give at least two engines, and a threshold for each but the last")
