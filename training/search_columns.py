"""Columns for search rewards that follow from what is known of a problem, most of all of one that a world was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from laconic.data_gen.world.audit import audit
from laconic.data_gen.world.schema import RELATIONS
from laconic.data_gen.world.words import QUERY
from laconic.recipes.stage_parts import Reward
from laconic.rewards import registry
from laconic.rewards.errors import DataError
from laconic.rewards.group import COLUMNS
from laconic.rewards.records import Problem

__all__ = ["check_columns", "searched_problem", "steps_of"]

_ALWAYS = ("question", "golds")


def check_columns(rewards: Sequence[Reward], problems: Sequence[Problem]) -> None:
    """Refuse problems that do not say what a reward must know of them, before anything is trained.

    Raises:
        DataError: a problem has no such key.
    """
    needs = [(reward.name, name) for reward in rewards for name in registry.find(reward.name).needs]
    for reward, name in needs:
        if COLUMNS[name].owner == "rollout" or name in _ALWAYS:
            continue
        for problem in problems:
            if name not in problem.meta:
                raise DataError(
                    f"reward {reward} needs {name!r} ({COLUMNS[name].about}), which problem {problem.id} has not",
                    cure=f"give every problem {name!r} in its meta, or take another reward",
                )


def searched_problem(problem: Problem, *, tool: str, texts: Mapping[str, str] | None = None) -> Problem:
    """The problem with the columns that search rewards look for in its `meta`; what is there already stays.

    Args:
        problem: Of any task.
        tool: The only one that is offered: `tools_offered`.
        texts: Of a world's documents by id. With them a world's problem gets `gold_ids` and `gold_passages` (where the
            facts that it takes are stated), and `gold_queries`: for each of those facts the query of the world's
            teacher.
    """
    columns: dict[str, Any] = {"tools_offered": [tool]}
    if texts is not None and "needed_documents" in problem.meta:
        ids, needed = problem.meta["gold_documents"], [fact for fact in problem.meta["facts"] if fact["needed"]]
        columns |= {"gold_ids": ids, "gold_passages": [texts[id] for id in ids]}
        columns["gold_queries"] = [
            [QUERY.format(noun=RELATIONS[fact["relation"]].noun, s=fact["subject"])] for fact in needed
        ]
    return replace(problem, meta=columns | problem.meta)


def steps_of(meta: Mapping[str, Any], searches: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """HiPRAG's three columns, exactly, where the problem is a world's; {} elsewhere.

    A step without a search is a fact that the answer takes and no search brought in; it should have searched if the
    fact's page was missing, which is counted once for each page (`laconic.data_gen.world.audit`).

    Args:
        meta: Of the problem.
        searches: The executed ones, as JSON objects.
    """
    if "needed_documents" not in meta:
        return {}
    found = audit(meta, searches, None)
    read = {id for search in searches for id in search["ids"][: search["shown"]]}
    steps = sum(fact["needed"] and read.isdisjoint(fact["documents"]) for fact in meta["facts"])
    return {
        "over_searches": found.over_searches,
        "under_searches": found.under_searches,
        "reasoning_steps": steps,
    }
