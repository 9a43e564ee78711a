"""What policies do to a model: the part of `results.json` about them.

The layout, below the key ``"policies"``; `policy` is ``"none"`` for the model by itself::

    {"rows":   [{"eval", "model", "policy", "task", everything that `laconic.eval.rows.row` measures,
                 "name", "parameters", "coverage", "accuracy_answered", "by_role", "by_fate", "forced", "prompt",
                 "cached", "scored", "critical_path", "seconds", "exact", "price", "price_per_correct", and "searches"
                 of policies that search}],
     "paired": [{"eval", "model", "policy", "baseline", "task", everything that `laconic.eval.paired.compare` says,
                 "d_tokens", "d_tokens_p", "d_tokens_p_holm", "tokens_verdict", "accuracy_verdict", "saves",
                 "says"}]}

Every policy is compared with no policy of the same model, on the same problems with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from laconic.eval.paired import adjust, compare
from laconic.eval.results import Settings, replicates, tasks_of
from laconic.eval.rows import frontier, row
from laconic.eval.samples import Samples, collect, scorable
from laconic.eval.stats import difference_p, holm
from laconic.inference.ledger import FATES, ROLES
from laconic.rewards.records import Problem, Rollout

NONE = "none"
"""The label of no policy."""
LEVEL = 0.05
COUNTS = ("forced", "prompt", "cached", "scored", "critical_path", "seconds")
"""What a ledger says besides the generated tokens; means over all answers."""

_ACCURACY = {
    "gained": "more often right",
    "held": "not less often right",
    "lost": "less often right",
    "open": "no significant {change}",
}
_TOKENS = {"fewer": "saves tokens", "more": "costs more", "same": "no significant change of tokens"}

Asked = Mapping[str, Mapping[str, Sequence[Rollout]]]
"""Rollouts by model and by policy; no policy is the first of each model."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens, in any currency."""

    prompt: float
    """Read: prompts, cached or not, and forced text."""
    generated: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One policy of one model on one task."""

    samples: Samples
    metas: list[dict[str, Any]]
    right: int


def measure_policies(
    problems: Sequence[Problem], asked: Asked, settings: Settings, *, prices: Prices | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Measure every policy of every model and compare it with no policy.

    Args:
        problems: Those that were asked.
        asked: The rollouts of `laconic.eval.policy_runs`.
        settings: Its `baseline` is not looked at.
        prices: To give costs in money too.

    Returns:
        ``rows`` and ``paired``. Accuracy counts a withheld answer as wrong; `coverage` is the share of answers that
        were not withheld, `accuracy_answered` the accuracy among those.

    Raises:
        DataError: rollouts are missing or doubled, or no problem can be scored.
    """
    flat = {f"{model}, {policy}": rows for model, of_model in asked.items() for policy, rows in of_model.items()}
    kept = scorable(problems, flat)
    rows: list[dict[str, Any]] = []
    families: list[list[dict[str, Any]]] = []
    for task in tasks_of(kept):
        pairs: list[dict[str, Any]] = []
        for model, of_model in asked.items():
            parts = {
                policy: _part(found, kept, task, settings, f"{model}, {policy}") for policy, found in of_model.items()
            }
            rows += _rows(model, task, parts, settings, prices)
            pairs += _pairs(model, task, parts, settings)
        families.append(pairs)
    # As for models: one family is the headline comparisons, the other all single tasks.
    for family in (families[0], [pair for pairs in families[1:] for pair in pairs]):
        _judge(family)
    return {"rows": rows, "paired": [pair for pairs in families for pair in pairs]}


def _part(found: Sequence[Rollout], kept: Sequence[Problem], task: str, settings: Settings, source: str) -> _Part:
    of_task = [problem for problem in kept if task in ("all", problem.task)]
    ids = {problem.id for problem in of_task}
    mine = [rollout for rollout in found if rollout.problem_id in ids and rollout.sample < settings.samples]
    samples = collect(mine, of_task, samples=settings.samples, source=f"rollouts of {source}")
    return _Part(samples, [rollout.meta for rollout in mine], int(samples.correct.sum()))


def _rows(
    model: str, task: str, parts: Mapping[str, _Part], settings: Settings, prices: Prices | None
) -> list[dict[str, Any]]:
    """All rows of one model, those on the front marked."""
    rows = {
        policy: {
            "eval": settings.name,
            **row(model, task, part.samples, budgets=settings.budgets),
            "policy": policy,
            **_spent(part, prices),
        }
        for policy, part in parts.items()
    }
    drawn = replicates({policy: part.samples for policy, part in parts.items()}, settings)
    stacked = {key: np.stack([means[key] for means in drawn.values()], axis=1) for key in ("tokens", "accuracy")}
    frontier(rows, stacked, reference=max(item["tokens"] for item in rows.values()))
    return list(rows.values())


def _spent(part: _Part, prices: Prices | None) -> dict[str, Any]:
    """What the ledgers say, as means over answers."""
    ledgers = [meta["ledger"] for meta in part.metas]
    answered = [not meta["abstained"] for meta in part.metas]
    counts = {name: _mean(ledger[name] for ledger in ledgers) for name in COUNTS}
    return {
        "name": part.metas[0]["name"],
        "parameters": part.metas[0]["parameters"],
        "coverage": float(np.mean(answered)),
        "accuracy_answered": part.right / sum(answered) if any(answered) else None,
        "by_role": {role: _tokens(ledgers, lambda r, _, role=role: r == role) for role in ROLES},
        "by_fate": {fate: _tokens(ledgers, lambda _, f, fate=fate: f == fate) for fate in FATES},
        **counts,
        "exact": all(ledger["exact"]["generated"] for ledger in ledgers),
        **_money(part, counts, prices),
        **_searched(part),
    }


def _searched(part: _Part) -> dict[str, float]:
    """Mean searches, where answers were searched for."""
    made = [len(meta["searches"]) for meta in part.metas if "searches" in meta]
    return {"searches": float(np.mean(made))} if made else {}


def _tokens(ledgers: Sequence[Mapping[str, Any]], wanted: Callable[[str, str], bool]) -> float:
    """Mean generated tokens of the wanted roles and fates."""
    total = sum(
        tokens
        for ledger in ledgers
        for role, fates in ledger["by_role"].items()
        for fate, tokens in fates.items()
        if wanted(role, fate)
    )
    return total / len(ledgers)


def _mean(values: Any) -> float | None:
    found = list(values)
    return None if None in found else float(np.mean(found))


def _money(part: _Part, counts: Mapping[str, float | None], prices: Prices | None) -> dict[str, float | None]:
    """The price of a question, and of a right answer; None without prices, or where the prompts were not counted."""
    if prices is None or counts["prompt"] is None or counts["forced"] is None:
        return {"price": None, "price_per_correct": None}
    read, said = counts["prompt"] + counts["forced"], float(part.samples.tokens.mean())
    price = (read * prices.prompt + said * prices.generated) / 1e6
    return {"price": price, "price_per_correct": price * len(part.metas) / part.right if part.right else None}


def _pairs(model: str, task: str, parts: Mapping[str, _Part], settings: Settings) -> list[dict[str, Any]]:
    """Every policy against no policy."""
    drawn = replicates({policy: part.samples for policy, part in parts.items()}, settings)
    base = parts[NONE].samples
    pairs = []
    for policy, part in parts.items():
        if policy == NONE:
            continue
        compared = compare(
            part.samples,
            base,
            replicates=(drawn[policy], drawn[NONE]),
            margin=settings.margin,
            weights=settings.weights,
            limit=settings.budgets[-1],
        )
        more = part.samples.tokens.mean(axis=1) - base.tokens.mean(axis=1)
        tokens = {"d_tokens": float(more.mean()), "d_tokens_p": difference_p(more, clusters=base.clusters)}
        named = {"eval": settings.name, "model": model, "policy": policy, "baseline": NONE, "task": task}
        pairs.append({**named, **compared, **tokens})
    return pairs


def _judge(family: Sequence[dict[str, Any]]) -> None:
    """Adjust p-values for the number of policies, and say what each comparison shows."""
    adjust(family)
    for pair, p_value in zip(family, holm([pair["d_tokens_p"] for pair in family]), strict=True):
        pair["d_tokens_p_holm"] = p_value
        pair["tokens_verdict"] = "same" if p_value >= LEVEL else "fewer" if pair["d_tokens"] < 0 else "more"
        pair["accuracy_verdict"] = accuracy_verdict(pair)
        pair["saves"] = pair["tokens_verdict"] == "fewer" and pair["accuracy_verdict"] != "lost"
        pair["says"] = words(pair)


def accuracy_verdict(pair: Mapping[str, Any]) -> str:
    """``gained``, ``held`` (shown not to be lower by more than the margin), ``lost`` or ``open``.

    A gain has to survive the adjustment for many policies, a loss has not: that would make losses harder to see the
    more policies are tried.
    """
    if pair["d_accuracy"] > 0 and pair["p_holm"] < LEVEL:
        return "gained"
    interval = pair["d_accuracy_ci"]
    if pair["d_accuracy"] < 0 and (pair["p_value"] < LEVEL or (interval is not None and interval[1] < 0)):
        return "lost"
    return "held" if pair["non_inferior"] else "open"


def words(pair: Mapping[str, Any]) -> str:
    """What a comparison shows."""
    change = "change" if pair["d_accuracy"] == 0 else "loss" if pair["d_accuracy"] < 0 else "gain"
    accuracy = _ACCURACY[pair["accuracy_verdict"]].format(change=change)
    return f"{_TOKENS[pair['tokens_verdict']]}, {accuracy}"
