"""What one search episode did, as numbers that can be summed over episodes.

How far it can be known whether a search was needed depends on the problem:

- a problem of the knowledge world (`needed_documents` in its `meta`) says what has to be read and what is known
  already; `laconic.data_gen.world.audit` then counts exactly;
- a problem with gold documents (`gold_documents`, or `gold_titles` where documents are called by their titles) says
  what an answer rests on, but not what the model knows;
- any other problem says nothing: what rests on that is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from laconic.data_gen.world.audit import Audit, audit
from laconic.rewards.records import Problem, Rollout
from laconic.rewards.search.qa import cover_match, exact_match, normalize_answer, token_f1

Columns: TypeAlias = dict[str, float]
"""By name; nan where it is not defined."""
Known: TypeAlias = Literal["exact", "gold", "nothing"]
"""What is known of a problem's documents."""

NAN = math.nan
_OF_PAGES = ("over", "under", "useful", "isr", "ise")
_OF_WORLD = ("known", "missing", "answerable", "abstained", "right_abstention", "founded_abstention")


def known_of(problem: Problem) -> Known:
    """What a problem says about its documents."""
    if "needed_documents" in problem.meta:
        return "exact"
    return "gold" if gold_of(problem) else "nothing"


def gold_of(problem: Problem) -> list[str]:
    """Ids of the documents that the answer rests on; none where that is not known."""
    return list(problem.meta.get("gold_documents") or problem.meta.get("gold_titles") or ())


def golds_of(problem: Problem) -> list[str]:
    """Every accepted answer."""
    return list(problem.meta.get("golds") or [problem.answer, *problem.meta.get("aliases", ())])


def columns_of(problem: Problem, rollout: Rollout) -> Columns:
    """The numbers of one episode.

    Args:
        problem: That was asked.
        rollout: Of `laconic.data_gen.episode_rollouts`.

    Returns:
        ``right``, ``em``, ``f1``, ``cover``: of the answer;
        ``searches``, ``invalid``, ``refused``, ``retrieved``, ``forced``, ``prompt``, ``seconds``: of the episode;
        ``repeated_query``: searches whose query was made before; ``repeated_documents`` of ``documents`` shown;
        ``redundant``: searches that were such a repetition or brought in nothing new, and no missing page;
        ``useful``, ``over``, ``under``, ``isr``, ``ise``: see `_exact` and `_gold`;
        ``known``, ``missing``: whether the question takes no search, or some; ``answerable``, ``abstained``,
        ``right_abstention``, ``founded_abstention``: of the knowledge world only.
    """
    told = rollout.meta["search"]
    searches: Sequence[Mapping[str, Any]] = told["searches"]
    answer = told["answer"]
    row = {
        "right": float(bool(rollout.correct)),
        "em": exact_match(answer, golds_of(problem)),
        "f1": token_f1(answer, golds_of(problem)),
        "cover": cover_match(answer, golds_of(problem)),
        "searches": len(searches),
        "invalid": told["invalid"],
        "refused": told["refused"],
        "cut": float(told["finish"] == "length"),
        "generated": rollout.tokens,
        "retrieved": told["retrieved_tokens"],
        "forced": told["forced_tokens"],
        "prompt": told.get("prompt_tokens", NAN),
        "seconds": told.get("seconds", NAN),
        **_repetitions(searches),
    }
    known = known_of(problem)
    if known == "exact":
        return row | _exact(audit(problem.meta, searches, answer), len(problem.meta["needed_documents"]))
    of_world = dict.fromkeys(_OF_WORLD, NAN)
    if known == "gold":
        return row | of_world | _gold(gold_of(problem), searches, right=bool(rollout.correct))
    return row | of_world | dict.fromkeys(_OF_PAGES, NAN)


def shown(search: Mapping[str, Any]) -> list[str]:
    """Ids of the documents that the model was shown."""
    return list(search["ids"])[: search.get("shown")]


def _repetitions(searches: Sequence[Mapping[str, Any]]) -> Columns:
    queries: set[str] = set()
    seen: set[str] = set()
    query_again = documents = again = nothing_new = 0
    for search in searches:
        query, ids = normalize_answer(search["query"]), shown(search)
        query_again += query in queries
        again += sum(name in seen for name in ids)
        documents += len(ids)
        nothing_new += query in queries or seen.issuperset(ids)
        queries.add(query)
        seen.update(ids)
    repeated = {"repeated_query": query_again, "repeated_documents": again, "documents": documents}
    return repeated | {"redundant": nothing_new}


def _exact(told: Audit, pages: int) -> Columns:
    """As `laconic.data_gen.world.audit` counts.

    ``over``: it searched when no page was missing; ``under``: a page was missing at the end; ``isr``: the share of
    pages to be read that were brought in, ``ise``: how many of them per search (0 without one), both undefined where
    none is to be read. WebLeaper counts entities for them; pages stand in here.
    """
    found = pages - told.under_searches
    return {
        "useful": told.useful,
        "redundant": told.redundant,
        "over": float(told.over_searches > 0),
        "under": float(told.under_searches > 0),
        "isr": found / pages if pages else NAN,
        "ise": found / max(1, told.searches) if pages else NAN,
        "known": float(told.least == 0),
        "missing": float(told.least > 0),
        "answerable": float(told.answerable),
        "abstained": float(told.abstained),
        "right_abstention": float(told.right_abstention),
        "founded_abstention": float(told.founded_abstention),
    }


def _gold(gold: Sequence[str], searches: Sequence[Mapping[str, Any]], *, right: bool) -> Columns:
    """From gold documents alone: it is not known what the model could have answered without them.

    ``over``: it searched once more after it was shown all of them; ``under``: it answered wrong without having been
    shown all of them; ``useful``: searches that brought in one of them for the first time; ``isr``, ``ise``: as above.
    """
    wanted, missing = set(gold), set(gold)
    useful = over = 0
    for search in searches:
        brought = missing & set(shown(search))
        over += not missing
        useful += bool(brought)
        missing -= brought
    found = len(wanted) - len(missing)
    return {
        "useful": useful,
        "over": float(over > 0),
        "under": float(bool(missing) and not right),
        "isr": found / len(wanted),
        "ise": found / max(1, len(searches)),
    }
