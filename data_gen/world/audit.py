"""What an episode's searches were good for, exactly, from the documents they brought in and what the question takes.

A page is missing while it must be read (``needed_documents`` of the problem's `meta`) and none of its wordings has been
brought in. A search that brings in several missing pages counts as one, so an episode may make fewer searches than
``least_searches``, which takes one page per search; over- and under-search are therefore told by pages, not by counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from laconic.inference.episode_record import Search
from laconic.rewards.search.qa import normalize_answer
from laconic.rewards.short_answers import is_abstention

Executed: TypeAlias = Search | Mapping[str, Any]
"""A search of an episode, or the same as a JSON object: `query`, `ids`, and where it is known how many were `shown`."""


@dataclass(frozen=True, slots=True)
class Audit:
    """One episode. Every search is useful, redundant or neither; ``useful + redundant <= searches``."""

    searches: int
    """Executed."""
    least: int
    """That suffice, at one page each."""
    useful: int
    """That brought in a page that was missing."""
    redundant: int
    """Not useful, and a query that was made before or nothing but documents that were there already."""
    over_searches: int
    """Made when no page was missing any more, or none ever was."""
    under_searches: int
    """Pages that were missing at the end: searches that should have been made, or made better."""
    answerable: bool
    abstained: bool

    @property
    def right_abstention(self) -> bool:
        """It abstained from a question that has no answer."""
        return self.abstained and not self.answerable

    @property
    def founded_abstention(self) -> bool:
        """It did so having looked where the answer would stand."""
        return self.right_abstention and self.under_searches == 0


def audit(meta: Mapping[str, Any], searches: Sequence[Executed], answer: str | None) -> Audit:
    """Judge the searches of an episode.

    Args:
        meta: Of the world's problem.
        searches: The executed ones, in order.
        answer: What the episode answered; None if nothing.
    """
    pages = {id: page for page, ids in enumerate(meta["needed_documents"]) for id in ids}
    missing = set(pages.values())
    queries: set[str] = set()
    seen: set[str] = set()
    useful = redundant = over = 0
    for search in searches:
        query, ids = _read(search)
        brought = {pages[id] for id in ids if id in pages} & missing
        over += not missing
        useful += bool(brought)
        redundant += not brought and (query in queries or seen.issuperset(ids))
        missing -= brought
        queries.add(query)
        seen.update(ids)
    return Audit(
        searches=len(searches),
        least=meta["least_searches"],
        useful=useful,
        redundant=redundant,
        over_searches=over,
        under_searches=len(missing),
        answerable=meta["answerable"],
        abstained=is_abstention(answer),
    )


def _read(search: Executed) -> tuple[str, list[str]]:
    row = search if isinstance(search, Mapping) else search.to_json()
    # A document that did not fit into the observation was not read.
    return normalize_answer(row["query"]), list(row["ids"])[: row.get("shown")]


def rates(audits: Iterable[Audit]) -> dict[str, float | None]:
    """Shares over many episodes; None where there is nothing to take a share of.

    Returns:
        ``over_search`` and ``under_search``: episodes with at least one;
        ``searched_though_known`` and ``searched_where_missing``: episodes with a search, among those that take none and
        those that take some;
        ``useful`` and ``redundant``: of all searches;
        ``abstention_precision`` and ``abstention_recall``: of abstentions those that are right, of questions without an
        answer those abstained from; ``founded_abstention``: of the right ones, those with a look at the right page.
    """
    held = list(audits)
    executed = sum(each.searches for each in held)
    known, missing = [a for a in held if a.least == 0], [a for a in held if a.least]
    abstained, lost = [a for a in held if a.abstained], [a for a in held if not a.answerable]
    right = [a for a in abstained if not a.answerable]
    return {
        "over_search": _share(sum(a.over_searches > 0 for a in held), len(held)),
        "under_search": _share(sum(a.under_searches > 0 for a in held), len(held)),
        "searched_though_known": _share(sum(a.searches > 0 for a in known), len(known)),
        "searched_where_missing": _share(sum(a.searches > 0 for a in missing), len(missing)),
        "useful": _share(sum(a.useful for a in held), executed),
        "redundant": _share(sum(a.redundant for a in held), executed),
        "abstention_precision": _share(len(right), len(abstained)),
        "abstention_recall": _share(len(right), len(lost)),
        "founded_abstention": _share(sum(a.founded_abstention for a in right), len(right)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
