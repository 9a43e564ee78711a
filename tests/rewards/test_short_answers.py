"""Short answers: several spellings, sets in any order, abstentions, and what stands between answer tags."""

from __future__ import annotations

import pytest

from laconic.rewards.answers import judge, verify
from laconic.rewards.records import Problem
from laconic.rewards.short_answers import UNKNOWN_SPELLINGS, is_abstention

ONE = Problem("p", "q", "bano keli", "world_qa", meta={"answers": [["bano keli", "keli, bano"]]})
SET = Problem("p", "q", "bano ; deru", "world_qa", meta={"answers": [["bano", "the city of bano"], ["deru"]]})
BARE = Problem("p", "q", "bano ; deru", "world_qa")
NOWHERE = Problem("p", "q", "unknown", "world_qa", meta={"answers": [list(UNKNOWN_SPELLINGS)]})
QA = Problem("p", "q", "Barack Obama", "qa", meta={"aliases": ["Obama"]})


@pytest.mark.parametrize(
    ("problem", "answer", "right"),
    [
        (ONE, "Bano Keli.", True),
        (ONE, "keli , bano", True),
        (ONE, "<think> x </think> <answer> keli bano </answer>", True),
        (ONE, "<answer> deru </answer> bano keli", False),
        (ONE, "<answer> deru </answer> <answer> bano keli </answer>", True),
        (ONE, "bano", False),
        (ONE, "bano keli ; deru", False),
        (ONE, "", False),
        (ONE, ";", False),
        (SET, "deru ; bano", True),
        (SET, "the City of Bano;deru", True),
        (SET, "deru ; bano ; deru", True),
        (SET, "bano ; the city of bano", False),
        (SET, "bano", False),
        (SET, "bano ; deru ; vola", False),
        (SET, "bano ; deru ;", False),
        (SET, "bano deru", False),
        (BARE, "deru ; the bano", True),
        (BARE, "deru", False),
        (NOWHERE, "I don't know.", True),
        (NOWHERE, "nowhere", False),
        (ONE, "unknown", False),
        (QA, "the obama", True),
        (QA, "Barack Obama", True),
        (QA, "Barack", False),
        (QA, "<answer>Obama</answer>", True),
    ],
)
def test_verdicts(problem, answer, right):
    assert verify(answer, problem) is right


def test_no_answer_is_wrong():
    assert judge(None, ONE).correct is False
    assert judge(None, QA).correct is False


@pytest.mark.parametrize("said", UNKNOWN_SPELLINGS)
def test_every_spelling_of_unknown_is_an_abstention(said):
    assert is_abstention(said.upper() + " .")


def test_other_answers_are_no_abstention():
    assert not any(map(is_abstention, ["", None, "I know", "the unknown soldier"]))
