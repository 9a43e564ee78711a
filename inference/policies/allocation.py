"""Compute-optimal allocation by difficulty, and the figures that tell what more compute is worth."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from laconic.inference.engine import Prompt
from laconic.inference.policies import nested
from laconic.inference.policies.base import Answer, Ask, Equal, policy
from laconic.inference.policies.candidates import tally, together
from laconic.inference.policies.plain import answer_of
from laconic.rewards.errors import RecipeError


def difficulty_bin(difficulty: float, edges: Sequence[float]) -> int:
    """The number of its bin, 0 the easiest; a difficulty on an edge belongs to the harder one.

    >>> [difficulty_bin(value, [0.3, 0.6]) for value in (0.2, 0.3, 0.9)]
    [0, 1, 2]
    """
    return bisect_right(edges, difficulty)


def quantile_edges(difficulties: Sequence[float], bins: int = 5) -> list[float]:
    """Edges that part validation questions into equally many per bin; the paper has five.

    >>> quantile_edges([0.0, 0.25, 0.5, 0.75, 1.0], bins=2)
    [0.5]

    Raises:
        RecipeError: fewer than two bins, or fewer than two questions.
    """
    if bins < 2 or len(difficulties) < 2:
        raise RecipeError(f"{bins} bins of {len(difficulties)} questions", cure="give two of each at least")
    return statistics.quantiles(difficulties, n=bins, method="inclusive")


def disagreement(answers: Sequence[str | None], *, equal: Equal = lambda one, other: one == other) -> float:
    """Difficulty without labels: 1 minus the share of the most frequent answer; None agrees with nothing.

    >>> disagreement(["7", "7", "8", None]), disagreement([None])
    (0.5, 1.0)
    """
    known = [answer for answer in answers if answer is not None]
    most = len(tally(known, [1.0] * len(known), equal=equal)[0].members) if known else 0
    return 1.0 - most / len(answers)


@dataclass(frozen=True)
class Trial:
    """What a policy did on the validation questions of one bin."""

    bin: int
    choice: str
    accuracy: float
    tokens: float
    """Mean per question, probes and discarded ones included."""


def best_choices(trials: Iterable[Trial], *, tokens: float = math.inf) -> dict[int, str]:
    """For each bin the most accurate choice that costs no more than `tokens`; of equal ones, the cheaper.

    A bin where nothing is cheap enough has no entry.
    """
    chosen: dict[int, Trial] = {}
    for trial in trials:
        best = chosen.get(trial.bin)
        rank = (trial.accuracy, -trial.tokens)
        if trial.tokens <= tokens and (best is None or rank > (best.accuracy, -best.tokens)):
            chosen[trial.bin] = trial
    return {number: trial.choice for number, trial in sorted(chosen.items())}


def cost_of_pass(records: Iterable[tuple[float, float]]) -> float:
    """Expected cost of one right answer: mean cost over mean performance, infinite if nothing was right.

    arXiv:2504.13359.

    >>> cost_of_pass([(2.0, 1), (4.0, 0)]), cost_of_pass([(1.0, 0)])
    (6.0, inf)

    Args:
        records: (cost, performance) of each run of a method.

    Raises:
        RecipeError: there are none.
    """
    rows = list(records)
    if not rows:
        raise RecipeError("the cost of a pass over no runs", cure="give at least one run")
    costs, passes = zip(*rows, strict=True)
    return sum(costs) / sum(passes) if sum(passes) else math.inf


def frontier(methods: Iterable[float], *, human: float = math.inf) -> float:
    """The least `cost_of_pass` of all methods, and of a human expert where that is known."""
    return min([*methods, human])


def saturation_point(p: float, gain: float, *, ceiling: float = 1.0) -> int:
    """The fewest parallel samples from which one more adds no more than `gain`.

    With ``F(N) = ceiling (1 - (1 - p)^N)`` the next sample adds ``ceiling p (1 - p)^N``, so
    ``N* = ceil(ln(gain / (ceiling p)) / ln(1 - p))``, and 0 where even the first adds no more. This follows from F;
    that F and N* are those of the paper on test-time scaling performance models is not verified.

    >>> saturation_point(0.5, 0.125)
    2

    Args:
        p: The chance that one sample succeeds, above 0 and up to 1.
        gain: Epsilon, above 0.
        ceiling: F_max.

    Raises:
        RecipeError: a figure is out of its range.
    """
    if not (0 < p <= 1 and gain > 0 and 0 < ceiling <= 1):
        raise RecipeError(f"saturation_point: p={p}, gain={gain}, ceiling={ceiling}", cure="give shares above 0")
    if gain >= ceiling * p:
        return 0
    if p == 1:
        return 1
    # The quotient of logarithms misses a whole number by rounding.
    return math.ceil(math.log(gain / (ceiling * p)) / math.log1p(-p) - 1e-9)


@policy(paper="arXiv:2408.03314")
@dataclass(frozen=True)
class ComputeOptimal:
    """How hard a question is decides which policy answers it.

    Rule: estimate the difficulty, find its bin, run the policy of that bin. The table is chosen on validation questions
    at equal cost (`best_choices`), the edges are quantiles of their difficulties (`quantile_edges`).

    From the paper: the rule, five bins by quantiles of the pass rate or of a verifier's mean score. Ours: difficulty
    without labels, the disagreement of a few first samples, so that nothing but the question is needed; and the table,
    which has to be fitted for a model.

    The samples that measure the difficulty are in the ledger as probes that were discarded; they do not answer.
    """

    table: Sequence[Mapping[str, Any]] = field(
        default_factory=lambda: ({"policy": "plain"}, {"policy": "self_consistency"})
    )
    """For each bin, the easiest first: ``policy`` and, if any, its ``parameters``."""
    edges: Sequence[float] = (0.5,)
    """Between the bins, ascending; one fewer than the table has rows."""
    probes: int = 4
    """Samples that measure the difficulty."""
    probe_tokens: int | None = None
    """Of one of them at most; None: as many as a completion may have. A sample that this cuts agrees with nothing."""
    difficulty: Callable[[Prompt], float] | None = None
    """Instead of probes: a difficulty that is known, or that another model estimates."""

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.table) - 1 or list(self.edges) != sorted(self.edges):
            raise RecipeError(
                f"compute_optimal: {len(self.table)} rows and edges {list(self.edges)}",
                cure="give ascending edges, one fewer than rows",
            )
        if self.probes < 1 or (self.probe_tokens is not None and self.probe_tokens < 1):
            raise RecipeError(
                f"compute_optimal: probes={self.probes}, probe_tokens={self.probe_tokens}", cure="make them at least 1"
            )
        for row in self.table:
            if "policy" not in row or set(row) - {"policy", "parameters"}:
                raise RecipeError(f"compute_optimal: row {dict(row)}", cure="give policy, and parameters if it has any")
            nested.build(row["policy"], row.get("parameters", {}))

    async def run(self, ask: Ask) -> Answer:
        """Measure, choose, run."""
        for row in self.table:
            nested.check(row["policy"], ask, outer="compute_optimal")
        difficulty = await self._probe(ask) if self.difficulty is None else self.difficulty(ask.prompt)
        number = difficulty_bin(difficulty, self.edges)
        row = self.table[number]
        answer = await nested.build(row["policy"], row.get("parameters", {})).run(ask)
        notes = {**answer.notes, "difficulty": difficulty, "bin": number, "policy": row["policy"]}
        return replace(answer, notes=notes)

    async def _probe(self, ask: Ask) -> float:
        samples = await together(self._sample(ask, number) for number in range(self.probes))
        return disagreement(samples, equal=ask.equal)

    async def _sample(self, ask: Ask, number: int) -> str | None:
        # Numbers of their own: the chosen policy then draws others, and answers as it would without probes.
        branch = ask.open(sample=_PROBE_SAMPLES + number)
        limit = ask.sampling.max_tokens if self.probe_tokens is None else self.probe_tokens
        chunk = await branch.generate(max_tokens=limit, role="probe")
        await branch.close("discarded")
        return answer_of(ask, branch.text) if chunk.ended else None


_PROBE_SAMPLES = 500_000
"""Sample numbers from here on are those of probes."""
