r"""Search over steps with a step scorer: beam search, diverse verifier trees and particle filtering on one skeleton.

Every level, each path that is not finished grows by one step, its new text is scored, and a rule says which paths go
on and how often. A path's score is an aggregate of its steps' scores. At the last level paths run to their end, so
there is always something to choose from; the best finished path is returned.

The scorer is given partial completions and returns one number for the newest step of each. What it reads is its own to
report. Candidates that are dropped, and steps looked ahead, are generated tokens and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np

from laconic.inference.policies.base import Answer, Ask, policy
from laconic.inference.policies.steps import (
    SEPARATOR,
    STEPWISE,
    Aggregation,
    Path,
    aggregate,
    check,
    check_steps,
    discard,
    score_texts,
    settle,
    softmax,
    together,
)


@dataclass(frozen=True)
class StepSearch:
    """The skeleton. Subclasses say in `select` who goes on."""

    paths: int = 4
    """Paths at every level (n)."""
    max_steps: int = 40
    """Levels; at the last one paths run to their end."""
    separator: str = SEPARATOR
    """Ends a step: what the model writes between steps, such as ";" after this project's own teachers."""
    aggregation: Aggregation = "last"
    """What a path's score is: of the scores of its steps the last, the smallest, or the product."""
    lookahead: int = 0
    """Steps that are generated greedily beyond each new one, only to be scored with it; counted as discarded probes."""

    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(max_steps=self.max_steps, separator=self.separator)
        check(self.paths >= 1, f"paths={self.paths}", "search with at least one path")
        check(self.lookahead >= 0, f"lookahead={self.lookahead}", "look ahead by 0 steps or more")
        names = get_args(Aggregation)
        check(self.aggregation in names, f"aggregation={self.aggregation!r}", f"it is one of {', '.join(names)}")

    async def run(self, ask: Ask) -> Answer:
        """Grow, score and select until nothing is left to grow."""
        rng = np.random.default_rng(ask.seed)
        pool = [Path(ask.open(sample=number)) for number in range(self.paths)]
        done: list[Path] = []
        levels = 0
        while pool:
            levels += 1
            await self._grow(ask, pool, last=levels == self.max_steps)
            pool = await self.select(ask, pool, done, levels, rng)
        chosen = self.choose(done, rng)
        scores = [self.score(path) for path in done]
        notes = {"levels": levels, "scores": scores, "score": self.score(chosen)}
        answer = await settle(ask, chosen, done, notes)
        confidence = self.score(chosen)
        return replace(answer, confidence=confidence if 0.0 <= confidence <= 1.0 else None)

    def score(self, path: Path) -> float:
        """The aggregate of its steps' scores."""
        return aggregate(path.scores, self.aggregation)

    async def select(
        self, ask: Ask, pool: list[Path], done: list[Path], level: int, rng: np.random.Generator
    ) -> list[Path]:
        """Move what is finished from `pool` to `done`, close what is dropped, and return who goes on."""
        raise NotImplementedError

    def choose(self, done: Sequence[Path], rng: np.random.Generator) -> Path:
        """The best path that the model ended itself, or the best of all if every one was cut."""
        return max(done, key=lambda path: (path.finish == "stop", self.score(path)))

    async def _grow(self, ask: Ask, pool: Sequence[Path], *, last: bool) -> None:
        growing = [path for path in pool if path.finish is None]
        await together(ask, [path.grow(ask, separator=self.separator, to_end=last) for path in growing])
        texts = await together(ask, [self._ahead(ask, path) for path in growing])
        for path, score in zip(growing, await score_texts(ask, texts, bounded=self.bounded), strict=True):
            path.scores = (*path.scores, score)

    async def _ahead(self, ask: Ask, path: Path) -> str:
        if self.lookahead == 0 or path.finish is not None:
            return path.text
        probe = await path.fork(ask)
        greedy = replace(ask.sampling, temperature=0.0)
        for _ in range(self.lookahead):
            await probe.grow(ask, separator=self.separator, role="probe", sampling=greedy)
        await discard([probe])
        return probe.text


def survivors(scores: Sequence[float], keep: int) -> list[int]:
    """The places of the `keep` highest scores, best first; of equal ones the first.

    >>> survivors([0.2, 0.9, 0.5, 0.9], 3)
    [1, 3, 2]
    """
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:keep]


def shares(survivors: int, slots: int) -> list[int]:
    """How often each survivor goes on, so that the slots are filled in turn.

    >>> shares(2, 4), shares(3, 4)
    ([2, 2], [2, 1, 1])
    """
    return [(slots - place + survivors - 1) // survivors for place in range(survivors)]


async def replicate(ask: Ask, paths: Sequence[Path], slots: int) -> list[Path]:
    """The paths and as many forks of them as fill the slots."""
    counts = shares(len(paths), slots) if paths else []
    return [copy for path, count in zip(paths, counts, strict=True) for copy in await path.forks(ask, count)]


@dataclass(frozen=True)
class _Wide(StepSearch):
    """What beam search and verifier trees have in common: the width."""

    width: int = 4
    """Candidates for each path that is kept (M); `paths / width` are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            1 <= self.width <= self.paths and self.paths % self.width == 0,
            f"paths={self.paths}, width={self.width}",
            "the width divides the number of paths",
        )


@policy(paper="arXiv:2408.03314", requires=STEPWISE, scorer=True)
@dataclass(frozen=True)
class StepBeam(_Wide):
    """Beam search over steps with a step scorer.

    Rule: `paths` paths; each level every path grows by one step; finished ones leave the pool; of the others the best
    ``paths / width`` are kept and replicated to `paths`.

    Defaults: 4 paths, width 4, 40 levels, no lookahead, the last step's score (search-and-learn). The temperature is
    the question's; there it is 0.8.

    Deviations: search-and-learn reports no tokens, and generates a lookahead that its beam never scores; here it is
    scored and counted. In its_hub "budget" is neither generations nor tokens and `max_steps` gives one level more;
    here every level grows at most `paths` paths, and there are at most `max_steps` levels. Ours: a path that the budget
    cut wins only if no path ended by itself.
    """

    async def select(
        self, ask: Ask, pool: list[Path], done: list[Path], level: int, rng: np.random.Generator
    ) -> list[Path]:
        """Keep the best of what is not finished."""
        done += [path for path in pool if path.finish is not None]
        live = [path for path in pool if path.finish is None]
        kept = survivors([self.score(path) for path in live], self.paths // self.width)
        await discard(path for place, path in enumerate(live) if place not in kept)
        return await replicate(ask, [live[place] for place in kept], self.paths)


@policy(
    paper="https://huggingface.co/spaces/HuggingFaceH4/blogpost-scaling-test-time-compute",
    requires=STEPWISE,
    scorer=True,
)
@dataclass(frozen=True)
class DiverseTrees(_Wide):
    """Diverse verifier tree search (DVTS): independent greedy subtrees, the best of their ends.

    Rule: ``paths / width`` subtrees that never see each other; each level every subtree draws `width` candidates for
    its next step and goes on with the best one; a subtree ends when its best candidate has.

    Defaults: 4 paths, width 4 (so one subtree), 40 levels, no lookahead (search-and-learn).

    Deviations: of the candidates beside a subtree's end, the authors return all as completions, unfinished ones too;
    here those that finished take part in the choice.
    """

    async def select(
        self, ask: Ask, pool: list[Path], done: list[Path], level: int, rng: np.random.Generator
    ) -> list[Path]:
        """In every subtree the best candidate goes on."""
        live: list[Path] = []
        for start in range(0, len(pool), self.width):
            tree = pool[start : start + self.width]
            best = tree[survivors([self.score(path) for path in tree], 1)[0]]
            ended = [path for path in tree if path.finish is not None] if best.finish is not None else []
            done += ended
            await discard(path for path in tree if path is not best and path not in ended)
            live += await best.forks(ask, self.width) if best.finish is None else []
        return live


def logit(score: float, eps: float = 1e-7) -> float:
    """log(s / (1 - s)), with s kept within [eps, 1 - eps].

    Args:
        score: From 0 to 1.
        eps: its_hub's; the authors' own is the machine's. Infinite weights would be the other choice.
    """
    inside = min(max(score, eps), 1.0 - eps)
    return float(np.log(inside) - np.log1p(-inside))


def particle_weights(scores: Sequence[float], temperature: float = 1.0, eps: float = 1e-7) -> list[float]:
    """Resampling probabilities: softmax of logit / temperature; at temperature 1 the normalised odds s / (1 - s).

    >>> [round(weight, 3) for weight in particle_weights([0.5, 0.9])]
    [0.1, 0.9]
    """
    return softmax([logit(score, eps) for score in scores], temperature)


def annealed(start: float, end: float, steps: int, step: int) -> float:
    """A temperature that goes in a straight line from `start` at step 0 to `end` at step ``steps - 1`` and stays there.

    >>> [annealed(2.0, 1.0, 3, step) for step in range(4)]
    [2.0, 1.5, 1.0, 1.0]
    """
    return end if steps <= 1 or step >= steps else start - (start - end) * step / (steps - 1)


@policy(paper="arXiv:2502.01618", requires=STEPWISE, scorer=True)
@dataclass(frozen=True)
class ParticleFilter(StepSearch):
    """Particle filtering: paths are resampled in proportion to the odds of their score.

    Rule: each level every path that is not finished grows by one step; its weight is softmax(logit(score) /
    temperature) among all, finished ones included; as many paths are drawn with replacement. It ends when all are
    finished. The last is the best one, or one drawn by weight.

    Defaults: 4 paths (the paper uses up to 128), 40 levels, the latest step's score, resampling temperature 1, no
    annealing. The sampling temperature is the question's; the authors' is 0.8. Scores are from 0 to 1.

    Deviations: the authors resample after the last step too, which only makes copies; here nothing is resampled once
    all are finished. Their annealing begins with its second temperature, here with the first. The iterated form
    (particle Gibbs) is left out.
    """

    temperature: float = 1.0
    """Divides the logits; at the end of annealing if there is any."""
    anneal_from: float | None = None
    """The temperature of the first resampling; None: no annealing."""
    anneal_steps: int = 10
    """Resamplings until `temperature` is reached. Ours."""
    pick: Literal["best", "sample"] = "best"
    """The final one: the best, or drawn by weight."""

    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        temperatures = (self.temperature, *([] if self.anneal_from is None else [self.anneal_from]))
        check(min(temperatures) > 0, f"temperatures {temperatures}", "they are above 0")
        check(self.anneal_steps >= 1, f"anneal_steps={self.anneal_steps}", "anneal over one step or more")
        check(self.pick in ("best", "sample"), f"pick={self.pick!r}", "it is best or sample")

    async def select(
        self, ask: Ask, pool: list[Path], done: list[Path], level: int, rng: np.random.Generator
    ) -> list[Path]:
        """Resample all of them."""
        if all(path.finish is not None for path in pool):
            done += list(dict.fromkeys(pool)) if self.pick == "best" else pool
            return []
        weights = particle_weights([self.score(path) for path in pool], self.temperature_at(level))
        places = sorted(rng.choice(len(pool), size=len(pool), p=weights).tolist())
        drawn: list[Path] = [pool[place] for place in places]
        await discard(path for path in dict.fromkeys(pool) if path not in drawn)
        return [path for one in dict.fromkeys(drawn) for path in await _copies(ask, one, drawn.count(one))]

    def choose(self, done: Sequence[Path], rng: np.random.Generator) -> Path:
        """The best one or a draw, of those that ended by themselves if there are any."""
        if self.pick == "best":
            return super().choose(done, rng)
        among = [path for path in done if path.finish == "stop"] or list(done)
        weights = particle_weights([self.score(path) for path in among], self.temperature)
        return among[int(rng.choice(len(among), p=weights))]

    def temperature_at(self, level: int) -> float:
        """Of the resampling after this level, the first being 1."""
        if self.anneal_from is None:
            return self.temperature
        return annealed(self.anneal_from, self.temperature, self.anneal_steps, level - 1)


async def _copies(ask: Ask, path: Path, count: int) -> list[Path]:
    # Finished particles need no sequence of their own: the same one is counted several times.
    return [path] * count if path.finish is not None else await path.forks(ask, count)
