"""From search episodes to the part of `results.json` about searching.

The layout, below the key ``"search"``; every number has its 95 % interval, over resampled questions, under the same
name with ``_ci``, and is null where it is not defined::

    {"rows":   [{"eval", "model", "task", "n_problems", "n_samples", "documents", everything that
                 `laconic.eval.search_metrics.ratios` lists, "distribution": {"0": share, "1": ...}, "distribution_ci",
                 "held_to": {"0": {"accuracy", "searches"}, "1": ...}, "closed_book": {...}}],
     "paired": [{"eval", "model", "baseline", "task", "searches_ratio", "retrieved_tokens_ratio", "d_accuracy",
                 "d_searches", ...}],
     "settings": {"retriever", "protocol", "k", "max_searches", "document_tokens", ...}}

``documents`` says what the counts of needed and needless searches rest on: ``exact`` (a knowledge world), ``gold``
(gold documents), ``nothing`` (they are null) or ``mixed``. ``held_to`` is about episodes that were allowed so many
searches, one more being answered by the protocol's notice, under the same prompt. ``early_correct`` is of the episodes
that search, and for which it was tried: the share that is right when held to one search less, so that the answer was
known before the last search. ``closed_book`` is of `laconic.eval.search_knowledge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laconic.eval.policy_results import Prices
from laconic.eval.results import Settings, tasks_of
from laconic.eval.samples import Array, scorable
from laconic.eval.search_columns import known_of
from laconic.eval.search_knowledge import knowledge, knowledge_ratios
from laconic.eval.search_metrics import Episodes, Measured, Ratio, distribution, episodes_of, measure, ratios, span
from laconic.rewards.records import Problem, Rollout

RATIOS = ("searches", "retrieved_tokens", "tokens")
DIFFERENCES = (
    *("accuracy", "em", "f1", "cover_em", "searches", "searched", "tool_productivity"),
    *("over_search", "under_search", "useful", "redundant", "searched_known", "searched_missing"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one model did."""

    episodes: Sequence[Rollout]
    closed_book: Sequence[Rollout] = ()
    """Empty: it was not asked without searches."""
    budgets: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    """By the searches they were held to."""


@dataclass(frozen=True, eq=False)
class _Model:
    """The same, as arrays."""

    episodes: Episodes
    closed_book: Episodes | None
    budgets: dict[int, Episodes]

    def of_task(self, task: str) -> _Model:
        closed = self.closed_book and self.closed_book.of_task(task)
        budgets = {most: held.of_task(task) for most, held in self.budgets.items()}
        return _Model(self.episodes.of_task(task), closed, budgets)


@dataclass(frozen=True, eq=False)
class _Measured:
    row: dict[str, Any]
    numbers: Measured


def search_results(
    problems: Sequence[Problem],
    asked: Mapping[str, Asked],
    settings: Settings,
    *,
    most: int,
    prices: Prices | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every model's searches, and compare them with the baseline's.

    Args:
        problems: Those that were asked.
        asked: By model; the baseline is among them.
        settings: Of the evaluation.
        most: Searches that an episode may make.
        prices: To give costs in money too.
        about: Passed through as ``settings``.

    Raises:
        DataError: an episode is missing.
    """
    kept = scorable(problems, {name: one.episodes for name, one in asked.items()})
    models = {name: _arranged(name, one, kept, settings.samples) for name, one in asked.items()}
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for task in tasks_of(kept):
        found = {
            name: _measure(name, task, model.of_task(task), settings, most, prices) for name, model in models.items()
        }
        rows += [one.row for one in found.values()]
        base = found[settings.baseline].numbers
        pairs += [
            {"eval": settings.name, "model": name, "baseline": settings.baseline, "task": task}
            | compared(one.numbers, base)
            for name, one in found.items()
            if name != settings.baseline
        ]
    return {"rows": rows, "paired": pairs, "settings": dict(about or {})}


def _arranged(name: str, asked: Asked, kept: Sequence[Problem], samples: int) -> _Model:
    def arrange(rollouts: Sequence[Rollout], what: str) -> Episodes:
        return episodes_of(rollouts, kept, samples=samples, source=f"{what} of {name}")

    closed = arrange(asked.closed_book, "closed-book answers") if asked.closed_book else None
    budgets = {most: arrange(held, f"episodes with {most} searches") for most, held in sorted(asked.budgets.items())}
    return _Model(arrange(asked.episodes, "episodes"), closed, budgets)


def _measure(name: str, task: str, model: _Model, settings: Settings, most: int, prices: Prices | None) -> _Measured:
    episodes = model.episodes
    drawn = {"seed": settings.seed, "repetitions": settings.repetitions}
    asked = {**ratios(episodes, prices=prices), "early_correct": early_correct(episodes, model.budgets)}
    numbers = measure(asked, episodes.clusters, **drawn)
    shares = measure(distribution(episodes, most), episodes.clusters, **drawn)
    row = {
        "eval": settings.name,
        "model": name,
        "task": task,
        "n_problems": episodes.shape[0],
        "n_samples": episodes.shape[1],
        "documents": _documents(episodes.problems),
        **numbers.flat(),
        "distribution": shares.values,
        "distribution_ci": shares.intervals,
        "held_to": {str(most): _held(held, drawn) for most, held in model.budgets.items()},
        "closed_book": _closed_book(episodes, model.closed_book, drawn),
    }
    return _Measured(row, numbers)


def early_correct(episodes: Episodes, budgets: Mapping[int, Episodes]) -> Ratio:
    """Episodes that are right without their last search, of those that search.

    An episode that is held to one search less says the same until then, having the same seed, and answers there.

    Args:
        episodes: As they went.
        budgets: The same episodes, by the searches they were held to.
    """
    searches = episodes.columns["searches"]
    right, tried = np.zeros_like(searches), np.zeros_like(searches)
    for most, held in budgets.items():
        last = searches == most + 1
        right, tried = np.where(last, held.columns["right"], right), tried + last
    return right, tried


def _held(held: Episodes, drawn: Mapping[str, int]) -> dict[str, Any]:
    found = ratios(held)
    return measure({name: found[name] for name in ("accuracy", "searches")}, held.clusters, **drawn).flat()


def _documents(problems: Sequence[Problem]) -> str:
    kinds = {known_of(problem) for problem in problems}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _closed_book(episodes: Episodes, closed: Episodes | None, drawn: Mapping[str, int]) -> dict[str, Any] | None:
    if closed is None:
        return None
    right: Array = closed.columns["right"]
    return knowledge(measure(knowledge_ratios(episodes, right), episodes.clusters, **drawn), right)


def compared(model: Measured, base: Measured) -> dict[str, Any]:
    """One model against the baseline on the same questions: ``<name>_ratio`` is model over baseline, ``d_<name>`` model
    minus baseline, each with its interval from the same resamples.
    """
    found: dict[str, Any] = {}
    for name in RATIOS:
        mine, theirs = model.values[name], base.values[name]
        fit = mine is not None and bool(theirs)
        found[f"{name}_ratio"] = mine / theirs if fit else None
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = model.replicates[name] / base.replicates[name]
        found[f"{name}_ratio_ci"] = span(drawn, clusters=base.clusters) if fit else None
    for name in DIFFERENCES:
        mine, theirs = model.values[name], base.values[name]
        fit = mine is not None and theirs is not None
        found[f"d_{name}"] = mine - theirs if fit else None
        drawn = model.replicates[name] - base.replicates[name]
        found[f"d_{name}_ci"] = span(drawn, clusters=base.clusters) if fit else None
    return found
