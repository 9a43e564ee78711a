"""Answer and form of search episodes, against numbers that the authors' own code produced.

Search-R1, InForage and the others score prompt and response together, with an example answer in the prompt; here the
response alone is scored, which must give the same.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError
from laconic.rewards.search.formats import is_hiprag, is_mash_relaxed, is_mash_strict, is_search_r1
from laconic.rewards.search.qa import last_answer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
THINK, ANSWER = "<think>t</think>", "<answer>Seine</answer>"
SEARCH = "<search>q</search>\n\n<information>d</information>\n\n"


def scored(name, case, **parameters):
    """The reward of the one response of a golden case, read from its text."""
    text, golds = case["inputs"]["response"], case["inputs"]["golden_answers"]
    steps = {name: [0] for name in ("searches", "over_searches", "reasoning_steps", "under_searches")}
    group = Group.of([False], [1], text=[text], golds=golds, retrieved=[[]], gold_ids=[], **steps)
    return float(REWARDS[name](group, **parameters)[0])


@pytest.mark.parametrize("case", GOLDEN["search_r1_em"] + GOLDEN["skyrl_search"])
def test_search_r1_em(case):
    assert scored("search_r1", case) == case["expected"]


@pytest.mark.parametrize("case", GOLDEN["search_r1_subem"])
def test_search_r1_cover_em(case):
    assert scored("search_r1", case, variant="cover_em") == case["expected"]


@pytest.mark.parametrize("case", GOLDEN["search_r1_format"])
def test_search_r1_format(case):
    assert scored("search_r1", case, variant="format", **case["params"]) == pytest.approx(case["expected"])


@pytest.mark.parametrize("outcome", ["em", "f1"])
@pytest.mark.parametrize("case", GOLDEN["inforage_outcome"])
def test_inforage_outcome(case, outcome):
    assert scored("inforage", case, outcome=outcome) == pytest.approx(case["expected"][outcome])


@pytest.mark.parametrize("case", GOLDEN["hiprag_outcome_format"])
def test_hiprag_outcome_and_format(case):
    # Without the bonus for its steps, which these cases do not have.
    ours = scored("hiprag", case, format_weight=case["params"]["lambda_f"], process_bonus=0.0)
    assert ours == pytest.approx(case["expected"])


@pytest.mark.parametrize("case", GOLDEN["mash_format_score"])
def test_mash_forms(case):
    text = case["inputs"]["output"]
    assert is_mash_strict(text, top_k=case["params"]["topk"]) == case["expected"]["strict"]
    assert is_mash_relaxed(text) == case["expected"]["relaxed"]


def test_retrieval_score_from_passages_and_from_text():
    wrong = "<answer>Rhine</answer>"
    hit = SEARCH.replace(">d<", ">by the Seine<")
    text = [f"{THINK}{hit}{THINK}{wrong}", f"{THINK}{SEARCH}{THINK}{wrong}"]
    read = Group.of([False] * 2, [1] * 2, text=text, golds=["Seine"])
    told = Group.of([False] * 2, [1] * 2, text=text, golds=["Seine"], passages=[[["x"]], [["a", "the SEINE!"], ["b"]]])
    parameters = {"variant": "format", "retrieval_score": 0.1}
    np.testing.assert_allclose(REWARDS["search_r1"](read, **parameters), [0.3, 0.2])
    np.testing.assert_allclose(REWARDS["search_r1"](told, **parameters), [0.2, 0.3])


def test_the_column_well_formed_is_believed():
    group = Group.of([True] * 2, [1] * 2, text=[THINK + ANSWER, ANSWER], golds=["Seine"], well_formed=[False, True])
    np.testing.assert_allclose(REWARDS["search_r1"](group, variant="format"), [0.8, 1.0])


def test_format_of_a_rollout_without_an_answer_earns_nothing():
    group = Group.of([False] * 3, [1] * 3, answer=[None, "Rhine", "Seine"], golds=["Seine"])
    assert REWARDS["search_r1"](group, variant="format").tolist() == [0.0, 0.2, 1.0]


@pytest.mark.parametrize("column", [{}, {"answer": ["x", "y"]}, {"text": [THINK + ANSWER, THINK + ANSWER]}])
def test_search_r1_by_the_verdict(column):
    group = Group.of([True, False], [1, 1], **column)
    for parameters, wrong in [({}, 0.0), ({"variant": "cover_em"}, 0.0), ({"variant": "format"}, 0.2)]:
        assert REWARDS["search_r1"](group, **parameters).tolist() == [1.0, wrong]


@pytest.mark.parametrize("parameters", [{"variant": "f1"}, {"variant": "format", "retrieval_score": 0.1}])
def test_search_r1_names_the_golds_it_cannot_do_without(parameters):
    with pytest.raises(DataError, match="no 'golds'"):
        REWARDS["search_r1"](Group.of([True], [1], text=[THINK + ANSWER]), **parameters)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (THINK + ANSWER, True),
        (f"  {THINK}\n{SEARCH}{THINK}{SEARCH}{THINK} {ANSWER}\n", True),
        (f"{THINK}{SEARCH}{ANSWER}", False),
        (f"{SEARCH}{THINK}{ANSWER}", False),
        (f"{THINK}{THINK}{ANSWER}", False),
        (f"{THINK}{ANSWER}{ANSWER}", False),
        (f"{THINK} so {ANSWER}", False),
        (f"{THINK}{ANSWER} done", False),
        ("<think>a < b, <b>bold</b></think><answer></answer>", True),
        ("<think><think>t</think></think><answer>x</answer>", False),
        ("<think>t</think><search>q</search><think>t</think><answer>x</answer>", False),
        ("", False),
    ],
)
def test_search_r1_form(text, valid):
    assert is_search_r1(text) is valid


SHORT = "<step><reasoning>r</reasoning><conclusion>c</conclusion></step>"
LONG = SHORT.replace("<con", "\n<search>q</search>\n<context>d</context>\n<con", 1)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (f"<think>\n{LONG}\n{SHORT}\n</think>\n{ANSWER}\n", True),
        (f"<think>{SHORT}</think>{ANSWER} done", False),
        (f"<think>{SHORT}</think>{ANSWER}{ANSWER}", False),
        (f"<think>{SHORT}</think>", False),
        (f"<think></think>{ANSWER}", False),
        (f"{SHORT}{ANSWER}", False),
        (f"<think>{LONG.replace('q', ' ')}</think>{ANSWER}", False),
        (f"<think>{LONG.replace('>d<', '><')}</think>{ANSWER}", False),
        (f"<think>{LONG.replace('<context>d</context>', '')}</think>{ANSWER}", False),
        (f"<think>{SHORT.replace('<conclusion>', '<b>x</b><conclusion>')}</think>{ANSWER}", False),
        (f"<think>{SHORT}{SHORT.replace('</step>', '')}</think>{ANSWER}", False),
        (f"<think>{SHORT.replace('</reasoning>', '</reasoning><reasoning>s</reasoning>')}</think>{ANSWER}", False),
    ],
)
def test_hiprag_form(text, valid):
    assert is_hiprag(text) is valid


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("new york city", "New-York", True), ("newyork", "New-York", False), ("", "the", False), ("party", "art", True)],
)
def test_hiprag_has_its_own_normaliser(answer, gold, right):
    case = {"inputs": {"response": f"<think>{SHORT}</think><answer>{answer}</answer>", "golden_answers": [gold]}}
    assert scored("hiprag", case, process_bonus=0.0) == pytest.approx(1.0 if right else 0.2)


def test_only_the_completion_counts():
    """One answer is enough; the authors' code, given a response without its prompt, finds none."""
    assert last_answer(ANSWER) == "Seine"
    group = Group.of([False], [1], text=[THINK + ANSWER], golds=["Seine"])
    assert REWARDS["search_r1"](group).tolist() == [1.0]
