"""What search rewards say where something is missing: golds, what was answered, or an answer."""

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError

GOLDS = ["William Shakespeare", "Shakespeare"]
ALL_BY_VERDICT = {
    "research": [1.0, 0.1],
    "zero_search": [1.0, 0.0],
    "ssrl": [1.0, 0.1],
    "graph_r1": [1.0, 0.0],
    "r1_searcher": [1.0, 0.0],
    "autorefine": [1.0, 0.0],
    "evinote": [1.25, 0.25],
    "hier_search": [1.0, 0.05],
}
BESIDE = {"entailment": [0.25, 0.25], "tools": [["web_search"]] * 2, "tools_offered": ["chunk_search", "web_search"]}


@pytest.mark.parametrize("name", ALL_BY_VERDICT)
def test_by_the_verdict(name):
    """Without golds, answer and text the verdict is what the answer's score would have been."""
    needed = {column: BESIDE[column] for column in REWARDS[name].needs}
    np.testing.assert_allclose(REWARDS[name](Group.of([True, False], [9, 9], **needed)), ALL_BY_VERDICT[name])


@pytest.mark.parametrize("name", ["research", "zero_search", "graph_r1", "r1_searcher", "hier_search", "autorefine"])
def test_an_answer_that_cannot_be_compared_is_refused(name):
    needed = {column: BESIDE[column] for column in REWARDS[name].needs}
    with pytest.raises(DataError, match="no 'golds'"):
        REWARDS[name](Group.of([True, False], [9, 9], answer=["Shakespeare", "Bacon"], **needed))


def test_matches_need_no_golds():
    texts = ["<think>a</think>" * 2 + "<answer>x</answer>"] * 2
    group = Group.of([True, False], [9, 9], text=texts, searches=[1, 0], entailment=[0.0, 0.0])
    np.testing.assert_allclose(REWARDS["ssrl"](group), [0.95, 0.05])
    np.testing.assert_allclose(REWARDS["r1_searcher"](group, variant="llama_stage1"), [1.5, -1.0])
    assert REWARDS["evinote"](group).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="no 'golds'"):
        REWARDS["evinote"](group, outcome="f1")


def test_no_answer_is_no_good_form():
    group = Group.of([False] * 2, [9] * 2, answer=[None, "Bacon"], golds=GOLDS, searches=[1, 1])
    assert REWARDS["ssrl"](group).tolist() == [0.0, 0.1]
    assert REWARDS["graph_r1"](group).tolist() == [-0.5, 0.0]
    assert REWARDS["r1_searcher"](group).tolist() == [-2.0, 0.0]
    assert REWARDS["r1_searcher"](group, variant="llama_stage1").tolist() == [-0.5, 0.0]
    uncounted = Group.of([False] * 2, [9] * 2, answer=[None, "Bacon"], golds=GOLDS)
    assert REWARDS["graph_r1"](uncounted).tolist() == [-0.5, 0.0]
