"""Verifiers for short answers: names, and sets of names, each with several accepted spellings.

They read what stands in the last ``<answer> ... </answer>``, or the whole text where there is none, and compare after
SQuAD's normalisation (`laconic.rewards.search.qa.normalize_answer`).
"""

from __future__ import annotations

from laconic.rewards.records import Problem
from laconic.rewards.search.qa import exact_match, last_answer, normalize_answer

BETWEEN = ";"
"""Separates the members of an answer that is a set."""

UNKNOWN_SPELLINGS = ("unknown", "i do not know", "i don't know", "not known", "it is not known")
"""Accepted where the answer is nowhere to be found; saying one of them is abstaining."""

_ABSTENTIONS = frozenset(map(normalize_answer, UNKNOWN_SPELLINGS))


def is_abstention(answer: str | None) -> bool:
    """Whether an answer says that the answer is not known; no answer at all is none.

    >>> is_abstention("Unknown."), is_abstention("Berlin"), is_abstention(None)
    (True, False, False)
    """
    return answer is not None and normalize_answer(answer) in _ABSTENTIONS


def verify_qa(answer: str, problem: Problem) -> bool:
    """Exact match with the gold answer or one of ``meta["aliases"]``, as Search-R1 scores."""
    return bool(exact_match(_said(answer), [problem.answer, *problem.meta.get("aliases", ())]))


def verify_world_qa(answer: str, problem: Problem) -> bool:
    """Whether the members of the answer, split at ``;``, are exactly those of the gold, in any order and spelling.

    ``meta["answers"]`` holds the accepted spellings of each member; without it the gold answer's own are accepted. A
    member may be said twice; one too many or too few makes the answer wrong.
    """
    golds = problem.meta.get("answers") or [[name] for name in problem.answer.split(BETWEEN)]
    place = {normalize_answer(spelling): index for index, names in enumerate(golds) for spelling in names}
    said = [place.get(normalize_answer(name)) for name in _said(answer).split(BETWEEN)]
    return None not in said and len(set(said)) == len(golds)


def _said(answer: str) -> str:
    inside = last_answer(answer)
    return answer if inside is None else inside
