"""Self-evaluation guided beam search: a step counts by how likely it is and how sure a judge is of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laconic.inference.engine import Capability
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.phi_decoding import norm_logprob
from laconic.inference.policies.steps import (
    SEPARATOR,
    STEPWISE,
    Path,
    check,
    check_steps,
    discard,
    draw_without_replacement,
    score_texts,
    settle,
    together,
)

GREEDY_BELOW = 5e-3
"""Temperatures below it take the best instead of drawing (the authors' code)."""


def confidence_share(ratio: float) -> float:
    """The exponent of the confidence, 2^r / (2^r + 1); 0.5 at r = 0."""
    return 1.0 / (1.0 + 2.0**-ratio)


def step_score(confidence: float, probability: float, ratio: float = 0.0) -> float:
    """confidence^l * probability^(1 - l), with l = `confidence_share`.

    >>> round(step_score(0.8, 0.25), 4)
    0.4472
    """
    share = confidence_share(ratio)
    return confidence**share * probability ** (1.0 - share)


def length_normalised(probability: float, length: int) -> float:
    """The geometric mean of the probabilities of a step's tokens."""
    return probability ** (1.0 / max(1, length))


def path_score(steps: Sequence[float]) -> float:
    """The geometric mean of the scores of a path's steps.

    >>> round(path_score([0.5, 0.125]), 4)
    0.25
    """
    return math.prod(steps) ** (1.0 / len(steps))


def first_of_each(texts: Sequence[str]) -> list[int]:
    """The places of texts that have not come before: equal steps of one beam are one.

    >>> first_of_each(["a", "b", "a"])
    [0, 1]
    """
    return [place for place, text in enumerate(texts) if texts.index(text) == place]


def temperature_at(step: int, temperature: float = 0.5, decay: float = 0.5) -> float:
    """The temperature of the selection after `step` steps (from 0): temperature * decay^step."""
    return temperature * decay**step


def select(scores: Sequence[float], size: int, temperature: float, rng: np.random.Generator) -> list[int]:
    """The places that stay: drawn without replacement in proportion to score^(1 / temperature), or the best ones.

    Args:
        scores: Of all candidates, duplicates merged.
        size: How many stay at most.
        temperature: Below `GREEDY_BELOW` the best are taken, best first, of equal ones the first.
        rng: What is drawn with.
    """
    if temperature < GREEDY_BELOW or max(scores) <= 0:
        return sorted(range(len(scores)), key=lambda place: -scores[place])[:size]
    relative = np.asarray(scores) / max(scores)  # so that high powers do not all vanish
    return draw_without_replacement((relative ** (1.0 / temperature)).tolist(), size, rng)


@policy(paper="arXiv:2305.00633", requires=(*STEPWISE, Capability.LOGPROBS), scorer=True)
@dataclass(frozen=True)
class SelfEvalBeam:
    """Stochastic beam search by the model's likelihood and a judge's confidence.

    Rule: every path draws `samples` candidates for its next step; equal ones count once; a step's score is
    confidence^l * probability^(1 - l), the probability normalised by length; a path's is the geometric mean of its
    steps'; `beams` stay, drawn in proportion to score^(1 / T), T = temperature * decay^step. It ends when all that stay
    are finished; the best finished one is returned. A finished path keeps its score and its place as one candidate.

    The confidence is the scorer's number for the path so far, from 0 to 1: the authors ask the model itself whether the
    step is correct and take the probability of yes.

    Defaults: the paper's: 5 beams, 16 samples, r = 0, temperature 0.5 with decay 0.5. Ours: at most 16 steps, then
    paths run to their end.

    Deviations: the released code draws with duplicates in, so that a text can stay twice; and once done it returns the
    best candidate even if that one is not finished.
    """

    beams: int = 5
    samples: int = 16
    ratio: float = 0.0
    """r: above 0 the confidence counts more, below 0 the likelihood."""
    temperature: float = 0.5
    decay: float = 0.5
    max_steps: int = 16
    """Steps at most."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)
        check(min(self.beams, self.samples) >= 1, f"beams={self.beams}, samples={self.samples}", "give 1 or more")
        check(min(self.temperature, self.decay) >= 0, "temperature or decay is below 0", "give 0 or more")

    async def run(self, ask: Ask) -> Answer:
        """Draw, judge and select until all that stay are finished."""
        rng = np.random.default_rng(ask.seed)
        beam = [Path(ask.open())]
        for step in range(self.max_steps):
            candidates = await self._candidates(ask, beam, last=step == self.max_steps - 1)
            scores = [path_score(path.scores) for path in candidates]
            places = select(scores, self.beams, temperature_at(step, self.temperature, self.decay), rng)
            beam = [candidates[place] for place in places]
            await discard(path for path in candidates if path not in beam)
            if all(path.finish is not None for path in beam):
                break
        chosen = max(beam, key=lambda path: (path.finish == "stop", path_score(path.scores)))
        notes = {"steps": step + 1, "score": path_score(chosen.scores), "scores": list(chosen.scores)}
        return await settle(ask, chosen, beam, notes)

    async def _candidates(self, ask: Ask, beam: list[Path], *, last: bool) -> list[Path]:
        """What every beam draws, duplicates merged, judged; finished paths stay as they are, in their place."""
        families = [[path] if path.finish else await path.forks(ask, self.samples) for path in beam]
        growing = [path for family in families for path in family if path.finish is None]
        await together(ask, [path.grow(ask, separator=self.separator, to_end=last) for path in growing])
        different = [path for family in families for path in await _merge(family)]
        new = [path for path in different if path in growing]
        confidences = await score_texts(ask, [path.text for path in new], bounded=True)
        for path, confidence in zip(new, confidences, strict=True):
            score = step_score(confidence, math.exp(norm_logprob(path.tokens)), self.ratio)
            path.scores = (*path.scores, score)
        return different


async def _merge(family: list[Path]) -> list[Path]:
    kept = [family[place] for place in first_of_each([path.step for path in family])]
    await discard(path for path in family if path not in kept)
    return kept
