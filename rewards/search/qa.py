"""How question-answering papers score a short answer: exact match, token F1 and cover match, after SQuAD's normaliser.

An answer that could not be read is None and scores 0. Of several accepted answers the best counts. Only the completion
is ever looked at: a prompt that shows an example answer cannot change a score.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from laconic.rewards.errors import DataError
from laconic.rewards.group import Array, Group

YesNo: TypeAlias = Literal["both", "prediction", "off"]
Score: TypeAlias = Callable[[str, Sequence[str]], float]
"""A prediction and its accepted answers in, a score from 0 to 1 out."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_YES_NO = frozenset({"yes", "no", "noanswer"})


# Golds and repeated answers; small enough that long passages cannot fill the memory.
@lru_cache(maxsize=4096)
def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    Punctuation goes first and leaves no space behind: "New-York" becomes "newyork" and "U.S.A." becomes "usa".

    >>> normalize_answer("The  U.S.A.")
    'usa'
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str | None, golds: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised golds, else 0.

    >>> exact_match("the Beatles!", ["Beatles"])
    1.0
    """
    if prediction is None:
        return 0.0
    said = normalize_answer(prediction)
    return float(any(said == normalize_answer(gold) for gold in golds))


def cover_match(prediction: str | None, golds: Sequence[str]) -> float:
    """1 if one of the normalised golds stands somewhere in the normalised prediction, else 0.

    It is a match of characters, as in the papers: "art" is found in "party".

    >>> cover_match("It was William Shakespeare", ["Shakespeare"])
    1.0
    """
    if prediction is None:
        return 0.0
    said = normalize_answer(prediction)
    return float(any(normalize_answer(gold) in said for gold in golds))


def token_f1(prediction: str | None, golds: Sequence[str], *, yes_no: YesNo = "both") -> float:
    """Harmonic mean of precision and recall over normalised words, repeated words counted; the best gold counts.

    Args:
        prediction: The answer; None scores 0.
        golds: Every accepted answer.
        yes_no: HotpotQA's rule that yes, no and noanswer share words with nothing but themselves, for ``both`` sides,
            for the ``prediction`` only, or ``off``.

    >>> round(token_f1("Barack Obama", ["Barack Hussein Obama"]), 4)
    0.8
    >>> token_f1("yes it is", ["yes"]), token_f1("yes it is", ["yes"], yes_no="prediction")
    (0.0, 0.5)
    """
    if prediction is None:
        return 0.0
    said = normalize_answer(prediction)
    return max((_f1(said, normalize_answer(gold), yes_no) for gold in golds), default=0.0)


def _f1(said: str, gold: str, yes_no: YesNo) -> float:
    ruled = {"both": (said, gold), "prediction": (said,), "off": ()}[yes_no]
    if said != gold and not _YES_NO.isdisjoint(ruled):
        return 0.0
    mine, theirs = said.split(), gold.split()
    shared = sum((Counter(mine) & Counter(theirs)).values())
    # 2 s / (a + b) is the harmonic mean of s / a and s / b.
    return 2.0 * shared / (len(mine) + len(theirs)) if shared else 0.0


def last_answer(text: str | None) -> str | None:
    """What stands in the last ``<answer> ... </answer>`` of a completion, stripped; None if there is no such pair.

    >>> last_answer("<answer>Bacon</answer> no: <answer> Shakespeare </answer>")
    'Shakespeare'
    """
    found = _ANSWER.findall(text or "")
    return found[-1].strip() if found else None


def predictions(group: Group) -> tuple[str | None, ...]:
    """The answer of each rollout: its `answer` where it is not None, else what `last_answer` reads from its `text`.

    Raises:
        DataError: the rollouts have neither.
    """
    if group.text is None:
        if group.answer is None:
            cure = "give every rollout one of the two keys"
            raise DataError("the rollouts have neither 'answer' nor 'text'", cure=cure)
        return group.answer
    if group.answer is None:
        return tuple(map(last_answer, group.text))
    pairs = zip(group.answer, group.text, strict=True)
    return tuple(last_answer(text) if answer is None else answer for answer, text in pairs)


def em_scores(group: Group) -> Array:
    """`exact_match` of each rollout, shape (G,); see `match_scores`."""
    return match_scores(group, exact_match)


def f1_scores(group: Group) -> Array:
    """`token_f1` of each rollout, shape (G,); see `answer_scores`."""
    return answer_scores(group, token_f1)


def cover_scores(group: Group) -> Array:
    """`cover_match` of each rollout, shape (G,); see `match_scores`."""
    return match_scores(group, cover_match)


def match_scores(group: Group, score: Score) -> Array:
    """A score that is 1 or 0, of each rollout's answer against the golds of its problem, shape (G,).

    Where the problem has no golds, or the rollouts neither `answer` nor `text`, the verdict `correct` stands in: it is
    what a verifier found when it compared the answer with the golds.
    """
    return group.correct.astype(float) if group.golds is None else answer_scores(group, score)


def answer_scores(group: Group, score: Score) -> Array:
    """The score of each rollout's answer against the golds of its problem, shape (G,), for scores between 0 and 1 too.

    Rollouts that carry neither `answer` nor `text` are scored by their verdict `correct`, as 1 or 0.

    Raises:
        DataError: there are answers, and the problem has no golds to compare them with. How much of an answer is right
            cannot be told from a verdict.
    """
    if group.answer is None and group.text is None:
        return group.correct.astype(float)
    golds = required_golds(group, "scores how much of an answer is right")
    answers = predictions(group)
    # Siblings often agree, so each answer is scored once.
    scores = {answer: 0.0 if answer is None else score(answer, golds) for answer in set(answers)}
    return np.array([scores[answer] for answer in answers])


def required_golds(group: Group, why: str) -> tuple[str, ...]:
    """The golds of the problem.

    Raises:
        DataError: it has none; `why` says what the reward does that needs them.
    """
    if group.golds is None:
        cure = "give every problem its accepted answers as the key 'golds'"
        raise DataError(f"the problem has no 'golds', and this reward {why}", cure=cure)
    return group.golds
