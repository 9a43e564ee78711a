"""phi-decoding: steps are chosen by simulated futures, their likelihood and how many of them agree; no scorer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laconic.inference.engine import Capability, Token
from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.clusters import kmeans, tfidf
from laconic.inference.policies.steps import (
    SEPARATOR,
    STEPWISE,
    Path,
    check,
    check_steps,
    discard,
    draw_without_replacement,
    settle,
    softmax,
    together,
)
from laconic.rewards.errors import LaunchError


def prune(norm_logprobs: Sequence[float], sigma: float = 1.0) -> list[int]:
    """The places that are worth a foresight: above mean - sigma * standard deviation (of the population).

    >>> prune([-0.5, -0.6, -3.0])
    [0, 1]
    """
    values = np.asarray(norm_logprobs, dtype=float)
    return np.flatnonzero(values > values.mean() - sigma * values.std()).tolist()


def cluster_weights(labels: Sequence[int]) -> list[float]:
    """Softmax over samples of the share of the cluster that each is in."""
    sizes = Counter(labels)
    return softmax([sizes[label] / len(labels) for label in labels])


def combined_weights(labels: Sequence[int], advantages: Sequence[float], temperature: float = 0.1) -> list[float]:
    """What steps are drawn by: the mean of `cluster_weights` and softmax(advantage / temperature)."""
    by_advantage = softmax(advantages, temperature)
    return [(one + other) / 2 for one, other in zip(cluster_weights(labels), by_advantage, strict=True)]


def settled(futures: Sequence[str], labels: Sequence[int], step: int, *, least: int = 4, share: float = 0.69) -> bool:
    """Whether looking ahead has become needless: all futures are one text, or the largest cluster has `share` or more.

    Args:
        futures: What the candidates led to.
        labels: Their clusters.
        step: Counted from 1.
        least: No earlier than at this step.
        share: Of the candidates.
    """
    return step >= least and (len(set(futures)) == 1 or max(Counter(labels).values()) / len(labels) >= share)


def final_candidates(labels: Sequence[int]) -> list[int]:
    """The members of the largest cluster, of equally large ones the first."""
    largest = Counter(labels).most_common(1)[0][0]
    return [place for place, label in enumerate(labels) if label == largest]


def norm_logprob(tokens: Sequence[Token]) -> float:
    """Mean log-probability per token; 0 for none. An end of sequence that came without one is left out.

    Raises:
        LaunchError: the engine gave none for a token of the text.
    """
    if any(token.logprob is None and token.text for token in tokens):
        raise LaunchError("the engine gave no log-probabilities", cure="use an engine that has them")
    values = [token.logprob for token in tokens if token.logprob is not None]
    return math.fsum(values) / len(values) if values else 0.0


@dataclass(eq=False)
class _Beam:
    path: Path
    value: float = 0.0
    """Mean log-probability of the future that it was chosen for."""
    advantage: float = 0.0
    future: str = ""


@policy(paper="arXiv:2503.13288", requires=(*STEPWISE, Capability.LOGPROBS))
@dataclass(frozen=True)
class PhiDecoding:
    """phi-decoding: simulate where each candidate step leads, and draw steps whose futures are likely and agree.

    Rule, per step: every beam draws `rollouts` candidates; those whose mean log-probability is not above mean - `sigma`
    * standard deviation are dropped; the others get one foresight each, whose mean log-probability less the beam's
    previous one is their advantage; futures are clustered (TF-IDF, k-means); `beams` of them are drawn without
    replacement by `combined_weights`. It stops looking ahead when `settled`, or after `max_steps`. Then all beams run
    to their end, the ends are clustered in two, and one of the larger cluster is drawn by softmax(advantage /
    temperature).

    Defaults: the paper's: 4 beams of 4 candidates, 8 steps at most and 4 at least, sigma 1, 3 clusters, temperature
    0.1, threshold 0.69, foresights of 1024 tokens. Its steps end at a line end; here, as everywhere, at an empty line.

    Deviations: the released code draws the final one by the places of the wrong cluster when the second is larger, and
    clusters without a seed. Ours: if fewer than `beams` candidates are left, the likeliest dropped ones are taken back
    (the authors draw them); a beam that has finished leaves the search and waits for the final choice, and a finished
    candidate is its own foresight.
    """

    beams: int = 4
    rollouts: int = 4
    """Candidate steps per beam."""
    max_steps: int = 8
    """Steps at most."""
    min_steps: int = 4
    """Steps before agreement can end the search."""
    sigma: float = 1.0
    clusters: int = 3
    temperature: float = 0.1
    """Of the softmax over advantages."""
    threshold: float = 0.69
    """Share of the largest cluster that ends the search."""
    foresight_tokens: int = 1024
    """Generated tokens of one look ahead at most."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)
        counts = (self.beams, self.rollouts, self.clusters, self.foresight_tokens)
        check(min(counts) >= 1, "beams, rollouts, clusters and foresight_tokens: one is below 1", "give 1 or more")
        check(self.temperature > 0, f"temperature={self.temperature}", "it is above 0")

    async def run(self, ask: Ask) -> Answer:
        """Look ahead step by step, then finish and choose."""
        rng = np.random.default_rng(ask.seed)
        beams = [_Beam(Path(ask.open(sample=number))) for number in range(self.beams)]
        done: list[_Beam] = []
        step, over = 0, False
        while beams and not over and step < self.max_steps:
            step += 1
            beams, over = await self._step(ask, beams, step, rng)
            done += [beam for beam in beams if beam.path.finish is not None]
            beams = [beam for beam in beams if beam.path.finish is None]
        await together(ask, [self._finish(ask, beam) for beam in beams])
        ends = done + beams
        chosen = self._choose(ask, ends, rng)
        others = [beam.path for beam in ends]
        return await settle(ask, chosen.path, others, {"steps": step, "settled": over, "advantage": chosen.advantage})

    async def _step(
        self, ask: Ask, beams: list[_Beam], step: int, rng: np.random.Generator
    ) -> tuple[list[_Beam], bool]:
        candidates = [_Beam(path, beam.value) for beam in beams for path in await beam.path.forks(ask, self.rollouts)]
        await together(ask, [beam.path.grow(ask, separator=self.separator) for beam in candidates])
        kept = self._prune(candidates)
        await discard(beam.path for beam in candidates if beam not in kept)
        await together(ask, [self._foresee(ask, beam) for beam in kept])
        futures = [beam.future for beam in kept]
        labels = kmeans(tfidf(futures), self.clusters, seed=ask.seed)
        weights = combined_weights(labels, [beam.advantage for beam in kept], self.temperature)
        chosen = [kept[place] for place in draw_without_replacement(weights, self.beams, rng)]
        await discard(beam.path for beam in kept if beam not in chosen)
        return chosen, settled(futures, labels, step, least=self.min_steps, share=self.threshold)

    def _prune(self, candidates: list[_Beam]) -> list[_Beam]:
        values = [norm_logprob(beam.path.tokens) for beam in candidates]
        kept = prune(values, self.sigma)
        dropped = sorted(set(range(len(values))) - set(kept), key=lambda place: (-values[place], place))
        return [candidates[place] for place in sorted(kept + dropped[: max(0, self.beams - len(kept))])]

    async def _foresee(self, ask: Ask, beam: _Beam) -> None:
        ahead = beam.path
        if beam.path.finish is None:
            ahead = await beam.path.fork(ask)
            await ahead.grow(ask, to_end=True, max_tokens=self.foresight_tokens, role="probe")
            await discard([ahead])
        _judge(beam, ahead)

    async def _finish(self, ask: Ask, beam: _Beam) -> None:
        await beam.path.grow(ask, to_end=True)
        _judge(beam, beam.path)

    def _choose(self, ask: Ask, ends: list[_Beam], rng: np.random.Generator) -> _Beam:
        among = [beam for beam in ends if beam.path.finish == "stop"] or ends
        places = final_candidates(kmeans(tfidf([beam.future for beam in among]), 2, seed=ask.seed))
        weights = softmax([among[place].advantage for place in places], self.temperature)
        return among[places[int(rng.choice(len(places), p=weights))]]


def _judge(beam: _Beam, ahead: Path) -> None:
    value = norm_logprob(ahead.tokens)
    beam.value, beam.advantage, beam.future = value, value - beam.value, ahead.step
