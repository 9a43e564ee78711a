"""Pay-per-search: a right answer is worth less for every search beyond the fewest that were ever needed.

In all formulas ``m`` is the number of executed searches and ``n`` the fewest searches of a correct rollout of the same
problem, now or in any earlier batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Batch, Group
from laconic.rewards.registry import Count, NonNegative, Share, reward
from laconic.rewards.search.formats import is_mash_relaxed, is_mash_strict, well_formed


def exponential_penalty(searches: Array, fewest: float, decay: float) -> Array:
    """What is left after exponential decay: ``decay ** (m - n)``.

    >>> exponential_penalty(np.array([1, 2, 3]), fewest=1, decay=0.5).tolist()
    [1.0, 0.5, 0.25]
    """
    return decay ** (np.asarray(searches, dtype=float) - fewest)


def linear_penalty(searches: Array, max_searches: int) -> Array:
    """What is left after a linear loss: ``max(0, 1 - m / (max_searches + 1))``, whatever the siblings did.

    >>> linear_penalty(np.array([0, 3, 9]), max_searches=5).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.maximum(1.0 - np.asarray(searches, dtype=float) / (max_searches + 1), 0.0)


def otc_penalty(searches: Array, fewest: float, max_searches: int) -> Array:
    """What OTC-GRPO leaves: a cosine if no search is needed, else a sine that peaks at the fewest searches.

    No search at all always leaves 1.

    >>> otc_penalty(np.array([0, 1, 5]), fewest=0, max_searches=5).round(4).tolist()
    [1.0, 0.901, 0.5]
    >>> otc_penalty(np.array([1, 2]), fewest=1, max_searches=5).round(4).tolist()
    [1.0, 0.866]
    """
    searches = np.asarray(searches, dtype=float)
    if fewest == 0:
        return np.cos(searches * np.pi / (2.0 * searches + max_searches))
    # sin(f * pi / (2 n)) with f the harmonic mean of m and n.
    return np.where(searches == 0, 1.0, np.sin(np.pi * searches / (searches + fewest)))


@reward(
    paper="arXiv:2510.01152",
    needs=("searches",),
    uses=("well_formed", "text", "answer"),
    claims=(
        "right_above_wrong",
        "shorter_is_no_worse",
        "no_length_pressure_on_wrong",
        "fewer_searches_is_no_worse",
        "no_search_pressure_on_wrong",
    ),
)
class Mash:
    """A right answer is worth less for every search beyond the fewest ever needed; a wrong one is worth nothing.

    Formula, with n the fewest searches of a correct rollout of this problem, in this or any earlier batch::

        exponential:  r = c * decay^(m - n)
        linear:       r = c * max(0, 1 - m / (max_searches + 1))
        otc:          r = c * cos(m pi / (2 m + max_searches))  if n = 0,  c * sin(pi m / (m + n))  otherwise
        otc_strict:   as otc, but 0 for m > 0 if n = 0

    With format "multiply" c is 0 for a correct rollout that is not well formed, which does not count for n either, and
    a well formed wrong one gets ``format_weight`` in the first ``format_steps`` steps; with "add", ``format_weight`` is
    added to c of every well formed rollout. With none correct all get 0 (or their format score) and n stays as it was;
    one correct rollout gets 1 unless an earlier batch needed fewer searches (linear looks at neither). Length plays no
    part; a rollout cut by the token limit counts as its verdict says. The searches of wrong rollouts may be unknown.

    Args:
        variant: Shape of the penalty; "exp" is the authors' name for exponential. [-]
        decay: What one search too many leaves, for exponential: 0.5 for single-hop questions, 0.8 for multi-hop ones.
            [share of the reward]
        max_searches: The episode's limit, for linear and both otc. [searches]
        format: What the form of a rollout does. [-]
        form: Which of the two forms the text is held to where `well_formed` is not given. [-]
        top_k: Documents per search, which the strict form counts. [documents]
        format_weight: Worth of the form. [reward]
        format_steps: How long "multiply" pays for the form of wrong rollouts. Steps are counted by how many are done:
            ours from 0 to 4 are the authors' from 1 to 5. [optimiser steps]

    Deviations: The authors take n over rollouts with any reward, so that in their first steps a well formed wrong
        rollout lowers n, and they scale its format score by the penalty; here n is taken over correct rollouts only and
        the format score of a wrong rollout is not scaled. They count a search that was refused at the limit; here only
        executed ones count. Their F1 outcome is left out: c is the verdict. They remember n by data set and question,
        here it is by problem id alone: ids must be unique over all tasks that are trained on together.

    Gaming: A problem that was once guessed right without a search makes every later search of it expensive, for good.
        With a format score, a well formed wrong answer can beat a right one after many searches.

    Source: Gul et al., "MASH: Modeling Abstention via Selective Help-Seeking"; momergul/mash, ``reward_functions.py``,
        ``reward_manager.py``; otc is their version of "OTC: Optimal Tool Calls via Reinforcement Learning",
        arXiv:2504.14870, whose own code was not released.

    >>> mash = Mash(decay=0.5)
    >>> first = Group.of([True, True, False], [9, 9, 9], searches=[1, 2, 0], problem_id="p")
    >>> second = Group.of([True, True], [9, 9], searches=[0, 1], problem_id="p")
    >>> mash(Batch.of(first)).tolist(), mash(Batch.of(second)).tolist(), mash(Batch.of(first)).tolist()
    ([1.0, 0.5, 0.0], [1.0, 0.5], [0.5, 0.25, 0.0])
    """

    def __init__(
        self,
        *,
        variant: Literal["exponential", "exp", "linear", "otc", "otc_strict"] = "exponential",
        decay: Share = 0.5,
        max_searches: Count = 5,
        format: Literal["none", "multiply", "add"] = "none",
        form: Literal["strict", "relaxed"] = "strict",
        top_k: Count = 3,
        format_weight: NonNegative = 0.1,
        format_steps: Count = 5,
    ) -> None:
        self.variant, self.decay, self.max_searches = variant, decay, max_searches
        self.format, self.format_weight, self.format_steps = format, format_weight, format_steps
        self._is_valid = is_mash_relaxed if form == "relaxed" else partial(is_mash_strict, top_k=top_k)
        self._fewest: dict[str, float] = {}

    def __call__(self, batch: Batch) -> Array:
        """Remember the fewest searches of each problem of a batch, this batch included, and score it."""
        for group in batch:
            _refuse_unknown_searches(group)
        formed = [self._formed(group) for group in batch]
        for group, is_formed in zip(batch, formed, strict=True):
            if group.problem_id is not None and self._counted(group, is_formed).any():
                self._fewest[group.problem_id] = self._needed(group, is_formed)
        parts = [self._score(group, is_formed) for group, is_formed in zip(batch, formed, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _formed(self, group: Group) -> Array:
        """Which rollouts have the form that is paid for, shape (G,); all, where none is."""
        return np.ones(group.size, dtype=bool) if self.format == "none" else well_formed(group, self._is_valid)

    def _counted(self, group: Group, formed: Array) -> Array:
        """The rollouts that show how many searches are needed, shape (G,): those whose answer earns something."""
        return group.correct & formed if self.format == "multiply" else group.correct

    def _needed(self, group: Group, formed: Array) -> float:
        """The fewest searches of a counted rollout, ever; infinite without one."""
        here = group.searches[self._counted(group, formed)].min(initial=np.inf)
        return float(min(here, self._fewest.get(group.problem_id, np.inf)))

    def _score(self, group: Group, formed: Array) -> Array:
        early = group.progress.step < self.format_steps
        worth = {
            "none": group.correct.astype(float),
            "multiply": np.where(group.correct, 1.0, self.format_weight * early) * formed,
            "add": group.correct + self.format_weight * formed,
        }[self.format]
        if not self._counted(group, formed).any():
            return worth
        return np.where(group.correct, worth * self._penalty(group, formed), worth)

    def _penalty(self, group: Group, formed: Array) -> Array:
        """What a counted rollout keeps of its worth; without meaning for others."""
        if self.variant == "linear":
            return linear_penalty(group.searches, self.max_searches)
        fewest = self._needed(group, formed)
        # A rollout that is not counted may have searched less than was needed; its power would overflow.
        searches = np.maximum(group.searches, fewest)
        if self.variant in ("exponential", "exp"):
            return exponential_penalty(searches, fewest, self.decay)
        kept = otc_penalty(searches, fewest, self.max_searches)
        return kept * (searches == 0) if self.variant == "otc_strict" and fewest == 0 else kept

    def state_dict(self) -> dict[str, Any]:
        """The fewest searches per problem."""
        return {"fewest": dict(self._fewest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a history."""
        self._fewest = dict(state["fewest"])


def _refuse_unknown_searches(group: Group) -> None:
    # Before anything is remembered: a batch that cannot be scored must leave no trace.
    if np.isnan(group.searches[group.correct]).any():
        raise DataError(
            f"mash: a correct rollout of problem {group.problem_id!r} has null for 'searches'",
            cure="give every correct rollout the number of its executed searches",
        )
