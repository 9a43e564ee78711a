"""Outcome, form and evidence rewards of search papers against numbers of the authors' own code, and at their edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.boxed import last_boxed
from laconic.rewards.errors import DataError
from laconic.rewards.search.answer_only import first_answer, noise_probability
from laconic.rewards.search.entities import ise, isr, soft_f
from laconic.rewards.search.evidence import has_closed_marks
from laconic.rewards.search.markup import is_research_form, ssrl_form

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
CLOSE = {"atol": 1e-6, "rtol": 0}
GOLDS = ["William Shakespeare", "Shakespeare"]


def one(**columns):
    """A group of one rollout whose columns are given without the list around them."""
    problem = {name: columns.pop(name) for name in ("golds", "tools_offered") if name in columns}
    return Group.of([True], [9], **problem, **{name: [value] for name, value in columns.items()})


def blocks(text, tag):
    return [part.split(f"</{tag}>")[0] for part in text.split(f"<{tag}>")[1:]]


def check(name, case, group, expected=None, **parameters):
    np.testing.assert_allclose(
        REWARDS[name](group, **parameters), [case["expected"] if expected is None else expected], **CLOSE
    )


def cases(key):
    return pytest.mark.parametrize("case", GOLDEN[key], ids=lambda case: case["inputs"].get("case"))


# ReSearch, ZeroSearch, SSRL, SEM


@cases("research")
def test_research(case):
    given = case["inputs"]
    check("research", case, one(text=given["response"], golds=given["golden_answers"]))


@pytest.mark.parametrize(
    "text",
    [
        r"<answer>\boxed{Shakespeare}</answer>",
        r"<think>a <answer>\boxed{Shakespeare}</answer>",
        "<think>a</think> <answer>Shakespeare</answer>",
        r"<think>a</think> <answer>\boxed{Shakespeare</answer>",
        r"<think>a</think> <answer>\boxed{Shakespeare}</answer><answer>\boxed{Shakespeare}</answer>",
        r"<think>a</think> <search>q</search> <answer>\boxed{Shakespeare}</answer>",
        r"<think>a</think> <search>q <result>r</result></search> <answer>\boxed{Shakespeare}</answer>",
        "",
    ],
)
def test_research_malformed(text):
    assert not is_research_form(text)
    assert REWARDS["research"](one(text=text, golds=GOLDS)) == [0.0]


def test_research_cut_rollouts_and_recorded_form():
    text = r"<think>a</think> <answer>\boxed{Shakespeare}</answer>"
    assert REWARDS["research"](one(text=text, golds=GOLDS, finished=False)) == [0.0]
    assert REWARDS["research"](one(text=text, golds=GOLDS, well_formed=False)) == [0.0]
    assert REWARDS["research"](one(answer=r"so \boxed{Shakespeare}", golds=GOLDS)) == [1.0]
    assert REWARDS["research"](one(answer="Bacon", golds=GOLDS, well_formed=True)) == [0.1]


def test_boxed_answers_are_not_recalls_protocol():
    assert not is_research_form(r"<think>a</think> <tool_call>q</tool_call> so \boxed{Shakespeare}")


def test_boxed():
    assert last_boxed(r"\boxed{a} or \boxed{\text{b}}") == r"\text{b}"
    assert last_boxed(r"\boxed{a") is last_boxed("a") is None


@pytest.mark.parametrize("case", GOLDEN["zerosearch"])
def test_zero_search(case):
    given = case["inputs"]
    group = one(text=given["response"], golds=given["golden_answers"])
    check("zero_search", case, group, case["expected"]["f1(reward)"])


def test_zero_search_without_an_answer():
    assert REWARDS["zero_search"](one(text="Shakespeare", golds=GOLDS)) == [0.0]


@pytest.mark.parametrize("case", GOLDEN["zerosearch_curriculum_noise_prob"])
def test_zero_search_curriculum(case):
    steps, parameters = case["inputs"], case["params"]
    noise = noise_probability(
        steps["current_step"],
        steps["total_steps"],
        start=parameters["start_threshold"],
        end=parameters["end_threshold"],
        base=parameters["exp_base"],
    )
    assert noise == pytest.approx(case["expected"], abs=1e-8)


def test_curriculum_ends_at_its_end():
    assert noise_probability(203, 203) == noise_probability(500, 203) == 0.5


@cases("ssrl")
def test_ssrl(case):
    given, expected, parameters = case["inputs"], case["expected"], case["params"]
    assert ssrl_form(given["response"]) == pytest.approx(expected["format"], abs=1e-6)
    group = one(text=given["response"], golds=given["golden_answers"])
    weights = {"em_weight": parameters["em_weight"], "form_weight": parameters["format_weight"]}
    check("ssrl", case, group, expected["reward"], **weights)


SEARCH = "<search>q</search><information>i</information>"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("<think>a</think>" * 2 + SEARCH, 1.0),
        ("<think>a</think>" * 2, 0.5),
        ("<think>a</think>" * 8 + SEARCH * 7, 1.0),
        ("<think>a</think>" * 9 + SEARCH * 8, 0.0),
        (SEARCH, 0.0),
        ("", 0.0),
        ("<think>a</think><note>b</note>", 0.0),
        ("<think>a<search>q</search></think>", 0.0),
        ("<think>a", 0.0),
        ("<think>a</think><search>q</search><think>b</think><information>i</information>", 0.0),
        ("<think>a</think><search>q</search> so <information>i</information><think>b</think>", 0.0),
        ("<think>a</think><search>q</search>", 0.0),
        ("<think>a</think>" * 2 + SEARCH.replace(">q<", ">one\ntwo<"), 0.0),
        ("<think>a</think>" * 2 + SEARCH.replace(">q<", "> your query <"), 0.0),
        ("<think>a</think>" * 2 + SEARCH.replace(">q<", "> <"), 0.0),
        ("<think>a</think>" * 2 + SEARCH.replace(">q<", ">\nq\n<"), 1.0),
    ],
)
def test_ssrl_form(text, form):
    assert ssrl_form(text) == form


def test_sem():
    first, later = "<answer>Bacon</answer>", "<search>q</search><answer>Shakespeare</answer>"
    texts = [later, first + later, "<answer>Shakespeare</answer>" + later, "<answer>Shakespeare</answer>", first]
    group = Group.of([True] * 4 + [False], [9] * 5, text=texts, searches=[1, 1, 1, 0, 0], golds=GOLDS)
    assert REWARDS["sem"](group).tolist() == [1.0, 1.0, 0.5, 1.0, 0.0]
    assert first_answer(later) is None


# EviNote-RAG, AutoRefine


@pytest.mark.parametrize("outcome", ["em", "f1"])
def test_evinote(outcome):
    for case in GOLDEN["evinote_" + outcome]:
        given = case["inputs"]
        (probability,) = [value for name, value in given.items() if name.startswith("entailment_prob")]
        text = given["response"]
        group = one(text=text, golds=given["golden_answers"], notes=blocks(text, "summary"), entailment=probability)
        check("evinote", case, group, outcome=outcome, mark_bonus=case["params"]["mark_bonus"])


@pytest.mark.parametrize("outcome", ["em", "f1"])
def test_evinote_reads_its_notes_from_text(outcome):
    for case in GOLDEN["evinote_" + outcome]:
        given = case["inputs"]
        (probability,) = [value for name, value in given.items() if name.startswith("entailment_prob")]
        group = one(text=given["response"], golds=given["golden_answers"], entailment=probability)
        check("evinote", case, group, outcome=outcome)


def test_evinote_edges():
    columns = {"golds": GOLDS, "entailment": 0.25}
    evinote = REWARDS["evinote"]
    assert evinote(one(answer="Shakespeare", notes=[], **columns)) == [0.25]
    assert evinote(one(answer=None, notes=["*x*"], **columns)) == [0.25]
    assert math.isnan(evinote(one(answer="Shakespeare", notes=["x"], golds=GOLDS, entailment=None))[0])
    # One of three words is shared with one gold; a word said twice is shared once but counted twice.
    assert evinote(one(answer="he is Shakespeare", notes=["x"], **columns), outcome="f1") == [0.75]
    np.testing.assert_allclose(
        evinote(one(answer="Shakespeare Shakespeare", notes=["x"], **columns), outcome="f1"), [2 / 3 + 0.25]
    )


def test_marks():
    assert has_closed_marks(["*a", "b*"])
    assert has_closed_marks(["*a #b# c*"])
    for notes in (["*a #b* c#"], ["*a"], ["a"], [], ["***"]):
        assert not has_closed_marks(notes)


def test_evinote_judge_accepts_probabilities_only():
    parse = REWARDS["evinote"].judged.parse
    assert [parse(answer) for answer in (0.5, "0.5", 1.5, "yes", None, True)] == [0.5, 0.5, None, None, None, None]


@cases("autorefine")
def test_autorefine(case):
    given = case["inputs"]
    text = given["response"]
    check(
        "autorefine",
        case,
        one(text=text, golds=given["golden_answers"], notes=blocks(text, "refine")),
        refine_score=case["params"]["refine_score"],
    )


@cases("autorefine")
def test_autorefine_reads_its_notes_from_text(case):
    check("autorefine", case, one(text=case["inputs"]["response"], golds=case["inputs"]["golden_answers"]))


def test_recorded_notes_come_before_the_text():
    text = "<refine>so William</refine> <refine>\nShakespeare</refine><answer>Bacon</answer>"
    assert REWARDS["autorefine"](one(text=text, golds=["William Shakespeare"])) == [0.1]
    assert REWARDS["autorefine"](one(text=text, notes=[], golds=["William Shakespeare"])) == [0.0]


def test_autorefine_edges():
    autorefine = REWARDS["autorefine"]
    with pytest.raises(DataError, match="no 'golds'"):
        autorefine(one(notes=["Shakespeare"]))
    assert autorefine(one(answer="Bacon", notes=[], golds=GOLDS)) == [0.0]
    assert autorefine(one(answer=None, notes=["Shakespeare"], golds=GOLDS)) == [0.0]
    # The notes are put together: the gold may span two of them.
    assert autorefine(one(answer="Bacon", notes=["so William", "Shakespeare"], golds=["William Shakespeare"])) == [0.1]


# WebLeaper


def test_soft_f_is_the_plain_f_where_names_match_or_not():
    required = ["Marie Curie", "Max Planck", "Niels Bohr"]
    found = ["max planck", "The Niels Bohr", "Albert Einstein", "Max Planck"]
    precision, recall = 2 / 3, 2 / 3
    assert soft_f(found, required) == pytest.approx(2 * precision * recall / (precision + recall))
    assert soft_f(required, required) == 1.0
    assert soft_f([], required) == soft_f(found, []) == soft_f(["Einstein"], required) == 0.0


def test_soft_f_weighs_recall_with_beta():
    # Precision 1, recall 1/2.
    assert soft_f(["Max Planck"], ["Max Planck", "Niels Bohr"], beta=2.0) == pytest.approx(5 * 0.5 / (4 + 0.5))
    assert soft_f(["Planck"], ["Max Planck"]) == pytest.approx(2 / 3)


def test_isr_and_ise():
    required, obtained = ["Marie Curie", "Max Planck", "Niels Bohr"], ["Max Planck", "max planck!", "Einstein"]
    assert isr(required, obtained) == pytest.approx(1 / 3)
    assert ise(required, obtained, actions=2) == 0.5
    assert isr([], obtained) == ise(required, obtained, actions=0) == 0.0


def test_webleaper():
    group = Group.of(
        [True, False, False],
        [9, 9, 9],
        entities=[["Max Planck", "Niels Bohr"], ["Planck"], []],
        gold_entities=["Max Planck", "Niels Bohr"],
    )
    # The second: precision 2/3, recall (2/3 + 0) / 2.
    np.testing.assert_allclose(REWARDS["webleaper"](group), [1.0, 4 / 9, 0.0])
