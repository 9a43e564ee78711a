"""Rewards for the evidence a model writes down before it answers: EviNote-RAG and AutoRefine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.judge import number
from laconic.rewards.registry import Judged, NonNegative, reward
from laconic.rewards.search.markup import has_answer
from laconic.rewards.search.qa import (
    answer_scores,
    cover_match,
    em_scores,
    f1_scores,
    normalize_answer,
    required_golds,
)

_MARKS = frozenset("*#")


@reward(
    paper="arXiv:2509.00877",
    scope="rollout",
    needs=("entailment",),
    uses=("golds", "notes", "answer", "text"),
    claims=("shorter_is_no_worse", "no_length_pressure_on_wrong"),
    abstains=True,
    judged=Judged(
        column="entailment",
        asks="with what probability does the last of `notes` entail that one of `golds` is the answer to `question`?",
        parse=partial(number, low=0.0, high=1.0),
    ),
)
def evinote(group: Group, *, outcome: Literal["em", "f1"] = "em", mark_bonus: NonNegative = 0.1) -> Array:
    """The outcome, plus how surely the model's own notes entail the right answer.

    Formula::

        r = q + P(entailment)
        q = outcome                  if it is above 0
        q = mark_bonus               if the notes hold ``*`` or ``#`` marks, each one closed
        q = 0                        otherwise, and always without an answer or without a note

    The notes are the column `notes`, or the texts of ``<summary>``; rollouts with neither column count as having a note
    without marks. The probability is an injected judge's (the paper uses an entailment model), the largest over the
    golds; where the judge gave none the reward abstains. Without `golds`, or with neither `answer` nor `text`, the
    verdict is the exact match; the F1 of an answer then cannot be had. A rollout's reward depends on no other, so none
    correct, one correct and equal lengths change nothing; one cut before its answer keeps only the probability.

    Args:
        group: The rollouts of one problem.
        outcome: Exact match, or F1. [-]
        mark_bonus: Of a wrong answer with marked notes. [reward]

    Deviations: The authors' F1 counts a repeated word once among the shared words but every time in the lengths; so
        does this one. Their judge sees an empty text for notes of more than 512 characters; here that is the judge's
        own business.

    Gaming: A note that repeats every candidate entails the gold too. A wrong answer with a note that entails the gold
        (up to 1.1) beats a right one whose note does not.

    Source: Dai et al., "EviNote-RAG: Enhancing RAG Models via Answer-Supportive Evidence Notes"; Da1yuqin/EviNoteRAG,
        ``verl/utils/reward_score/qa_train.py``.

    >>> group = Group.of(
    ...     correct=[True, False], length=[40, 90], answer=["Paris", "Rome"], golds=["Paris"],
    ...     notes=[["*Paris* is the capital"], ["unsure"]], entailment=[0.9, 0.2],
    ... )
    >>> evinote(group).tolist()
    [1.9, 0.2]
    """
    assert group.entailment is not None
    score = em_scores(group) if outcome == "em" else answer_scores(group, _set_f1)
    written = notes_of(group, "summary") or (("",),) * group.size
    marked = np.array([has_closed_marks(notes) for notes in written])
    score = np.where(score > 0, score, mark_bonus * marked)
    noted = np.array([bool(notes) for notes in written])
    return np.where(noted & has_answer(group), score, 0.0) + group.entailment


def notes_of(group: Group, tag: str) -> tuple[tuple[str, ...], ...] | None:
    """The notes of each rollout: the column `notes`, else what its text has between these tags; None without both."""
    if group.notes is not None or group.text is None:
        return group.notes
    return tuple(tuple(re.findall(f"<{tag}>(.*?)</{tag}>", text or "", re.DOTALL)) for text in group.text)


def has_closed_marks(notes: Sequence[str]) -> bool:
    """The notes, read one after the other, hold a ``*`` or ``#``, and every such mark is closed by one of its kind.

    >>> has_closed_marks(["*key* and *#both#*"]), has_closed_marks(["*key"]), has_closed_marks(["plain"])
    (True, False, False)
    """
    marks = [character for note in notes for character in note if character in _MARKS]
    open_marks: list[str] = []
    for mark in marks:
        if open_marks and open_marks[-1] == mark:
            open_marks.pop()
        else:
            open_marks.append(mark)
    return bool(marks) and not open_marks


def _set_f1(prediction: str, golds: Sequence[str]) -> float:
    mine = normalize_answer(prediction).split()
    theirs = [normalize_answer(gold).split() for gold in golds]
    # The harmonic mean of s / a and s / b is 2 s / (a + b).
    return max(
        (2.0 * shared / (len(mine) + len(gold)) for gold in theirs if (shared := len(set(mine) & set(gold)))),
        default=0.0,
    )


@reward(
    paper="arXiv:2505.11277",
    scope="rollout",
    uses=("golds", "notes", "answer", "text"),
    claims=("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong"),
)
def autorefine(group: Group, *, refine_score: NonNegative = 0.1) -> Array:
    """Answer F1; a wrong answer earns a little if the model's refined evidence holds a gold answer.

    Formula::

        r = F1            if F1 > 0
        r = refine_score  if F1 = 0 and a gold stands in the notes (the texts of ``<refine>``), put together
        r = 0             otherwise, and without an answer

    The notes are the column `notes`, or read from the text; rollouts with neither wrote none. Rollouts with neither
    `answer` nor `text` are scored by their verdict. A rollout's reward depends on no other, so none correct, one
    correct and equal lengths change nothing; one cut by the token limit before its answer gets 0.

    Args:
        group: The rollouts of one problem.
        refine_score: Of a wrong answer with good evidence. [reward]

    Deviations: The authors' code finds no answer in a completion that is scored without its prompt, because it skips
        the prompt's example; here the completion's last answer counts. Their format score is 0 and left out.

    Gaming: Copying whole documents into the refined evidence collects the small reward. Searches cost nothing.

    Source: Shi et al., "Search and Refine During Think: Autonomous Retrieval-Augmented Reasoning of LLMs";
        syr-cn/AutoRefine, ``verl/utils/reward_score/qa_em.py``.

    >>> group = Group.of(
    ...     correct=[True, False, False], length=[40, 90, 70], answer=["Paris", "Rome", "Rome"], golds=["Paris"],
    ...     notes=[[], ["It is Paris"], ["It is Rome"]],
    ... )
    >>> autorefine(group).tolist()
    [1.0, 0.1, 0.0]
    """
    f1 = f1_scores(group)
    written = notes_of(group, "refine") or ((),) * group.size
    golds = required_golds(group, "looks for them in the notes") if any(written) else ()
    hits = np.array([cover_match(" ".join(notes), golds) if notes else 0.0 for notes in written])
    return np.where(has_answer(group), np.where(f1 > 0, f1, refine_score * hits), 0.0)
