"""The tree of AB-MCTS-A: ask for the next places to generate at, tell what their results scored.

Free of engines: it deals in numbers only. Whatever the order in which results are told, the tree is the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from laconic.rewards.errors import RecipeError


@dataclass(frozen=True)
class Gaussian:
    """Normal-inverse-chi-squared belief about a mean score; the defaults are the prior."""

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_square: float = 0.1

    def after(self, scores: Iterable[float]) -> Gaussian:
        """The belief after independent observations, in any order."""
        scores = list(scores)
        if not scores:
            return self
        count, mean = len(scores), math.fsum(scores) / len(scores)
        spread = math.fsum((score - mean) ** 2 for score in scores)
        kappa, nu = self.kappa + count, self.nu + count
        pulled = count * self.kappa * (self.m - mean) ** 2 / kappa
        m = (self.kappa * self.m + count * mean) / kappa
        return Gaussian(m, kappa, nu, (self.nu * self.tau_square + spread + pulled) / nu)

    def draw(self, rng: random.Random) -> float:
        """sigma^2 ~ InvGamma(nu / 2, nu tau^2 / 2), then a mean ~ N(m, sigma^2 / kappa)."""
        variance = self.nu * self.tau_square / 2 / rng.gammavariate(self.nu / 2, 1.0)
        return rng.gauss(self.m, math.sqrt(variance / self.kappa))


@dataclass(frozen=True)
class Beta:
    """Beta belief about a score from 0 to 1; the default is Jeffreys' prior."""

    a: float = 0.5
    b: float = 0.5

    def after(self, scores: Iterable[float]) -> Beta:
        """A score s adds s to `a` and 1 - s to `b`."""
        scores = list(scores)
        return Beta(self.a + math.fsum(scores), self.b + math.fsum(1.0 - score for score in scores))

    def draw(self, rng: random.Random) -> float:
        """One draw."""
        return rng.betavariate(self.a, self.b)


Belief: TypeAlias = Gaussian | Beta


def upper_bounds(rewards: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """UCB of each action: mean + sqrt(2) * sqrt(log(all) / its own); infinite for one that was never tried."""
    total = sum(len(scores) for scores in rewards.values())
    return {
        action: sum(scores) / len(scores) + math.sqrt(2) * math.sqrt(math.log(total) / len(scores))
        if scores
        else math.inf
        for action, scores in rewards.items()
    }


@dataclass(frozen=True)
class Trial:
    """Where to generate next."""

    number: int
    parent: int | None
    """The trial whose result is to be refined; None: a fresh start."""
    action: str
    """What generates it, of the tree's `actions`."""


@dataclass
class _Node:
    score: float = 0.0
    children: dict[int, _Node] = field(default_factory=dict)
    below: dict[int, float] = field(default_factory=dict)
    """Scores of all descendants, by trial."""


class BanditTree:
    """Adaptive branching by Thompson sampling (AB-MCTS-A, node aggregation).

    At a node with children, a draw from the belief about new children (their scores) is compared with one from the
    belief about going on (scores of all that was generated below children). The first wins: a new child. Else the child
    with the highest draw, from its own score and those below it, is gone down to. A node without children gets one.

    Args:
        prior: The belief before any score.
        actions: What can generate, such as several models; chosen by all scores that each has got anywhere.
        choose: How an action is chosen: Thompson sampling or upper confidence bounds.
        seed: Of all draws.
    """

    def __init__(
        self,
        prior: Belief | None = None,
        *,
        actions: Sequence[str] = ("",),
        choose: Literal["thompson", "ucb"] = "thompson",
        seed: int = 0,
    ) -> None:
        self.prior, self.choose = prior or Gaussian(), choose
        self.rewards: dict[str, dict[int, float]] = {action: {} for action in actions}
        self._root = _Node()
        self._nodes: dict[int | None, _Node] = {None: self._root}
        self._trials: dict[int, Trial] = {}
        self._waiting: set[int] = set()
        self._rng = random.Random(seed)

    def ask(self, count: int = 1) -> list[Trial]:
        """The next trials; those not yet told do not matter to them."""
        return [self._next() for _ in range(count)]

    def tell(self, trial: int, score: float) -> None:
        """The score of a trial's result.

        Raises:
            RecipeError: the trial was never asked for or is told already, or a Beta belief gets a score beyond [0, 1].
        """
        if trial not in self._waiting:
            raise RecipeError(f"trial {trial} is not waiting for a score", cure="tell each trial of `ask` once")
        if isinstance(self.prior, Beta) and not 0.0 <= score <= 1.0:
            raise RecipeError(f"trial {trial}: score {score}", cure="give scores from 0 to 1, or use a Gaussian")
        self._waiting.discard(trial)
        asked = self._trials[trial]
        self._nodes[trial] = self._nodes[asked.parent].children[trial] = _Node(score)
        self.rewards[asked.action][trial] = score
        place = asked.parent
        while place is not None:
            self._nodes[place].below[trial] = score
            place = self._trials[place].parent
        self._root.below[trial] = score

    def beliefs(self, trial: int | None = None) -> tuple[Belief, Belief]:
        """At the result of a trial (None: the root): about a new child, and about going on with one."""
        node = self._nodes[trial]
        new = [child.score for child in node.children.values()]
        deeper = [score for number, score in node.below.items() if number not in node.children]
        return self.prior.after(new), self.prior.after(deeper)

    def child_beliefs(self, trial: int | None = None) -> dict[int, Belief]:
        """About each child of a trial's result."""
        children = self._nodes[trial].children
        return {
            number: self.prior.after([children[number].score, *children[number].below.values()])
            for number in sorted(children)
        }

    def _next(self) -> Trial:
        place: int | None = None
        while self._nodes[place].children:
            new, deeper = (belief.draw(self._rng) for belief in self.beliefs(place))
            if new >= deeper:
                break
            draws = {number: belief.draw(self._rng) for number, belief in self.child_beliefs(place).items()}
            place = max(draws, key=draws.__getitem__)
        trial = Trial(len(self._trials), place, self._action())
        self._trials[trial.number] = trial
        self._waiting.add(trial.number)
        return trial

    def _action(self) -> str:
        if len(self.rewards) == 1:
            return next(iter(self.rewards))
        scores = {action: [told[trial] for trial in sorted(told)] for action, told in self.rewards.items()}
        if self.choose == "ucb":
            values = upper_bounds(scores)
        else:
            values = {action: self.prior.after(given).draw(self._rng) for action, given in scores.items()}
        return max(values, key=values.__getitem__)
