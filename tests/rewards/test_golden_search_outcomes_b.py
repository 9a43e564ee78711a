"""Outcome, form and evidence rewards of search papers against numbers of the authors' own code, and at their edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError
from laconic.rewards.search.answer_only import first_answer, noise_probability
from laconic.rewards.search.entities import ise, isr, soft_f
from laconic.rewards.search.evidence import has_closed_marks
from laconic.rewards.search.markup import boxed, graph_r1_form, is_research_form, r1_searches, ssrl_form
from laconic.rewards.search.tools import web_penalty

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


def test_boxed():
    assert boxed(r"\boxed{a} or \boxed{\text{b}}") == r"\text{b}"
    assert boxed(r"\boxed{a") is boxed("a") is None


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


# HierSearch, Graph-R1, R1-Searcher


@cases("hiersearch")
def test_hier_search(case):
    given = case["inputs"]
    offered = [tag for tag in ("chunk_search", "graph_search", "web_search") if f"<{tag}>" in given["prompt_tools"]]
    used = [tag for tag in offered if f"<{tag}>" in given["response"]]
    check(
        "hier_search",
        case,
        one(text=given["response"], golds=given["golden_answers"], tools=used, tools_offered=offered),
        local_first=given["LOCAL_WEB_REWARD"] == "TRUE",
    )


@pytest.mark.parametrize("case", GOLDEN["hiersearch_local_web_penalty"])
def test_web_penalty(case):
    order = case["inputs"]["tool_order (L=local, W=web)"]
    assert web_penalty([{"L": "chunk_search", "W": "web_search"}[tool] for tool in order]) == case["expected"]


def test_web_penalty_of_later_calls():
    local = ["graph_search"]
    prices = [web_penalty(local * before + ["browse_url"]) for before in range(10)]
    assert prices == [-1.0, -1.0, -1.0, -0.2, -0.15, -0.1, -0.045, -0.03, -0.01, -0.01]
    assert web_penalty([]) == 0.0


def test_hier_search_penalty_is_never_replaced_by_the_bonus():
    columns = {"golds": GOLDS, "tools_offered": ["chunk_search", "web_search"]}
    half = one(answer="Shakespeare wrote it", tools=["web_search"], **columns)
    assert REWARDS["hier_search"](half, local_first=True) == [0.5 - 1.0]
    wrong = one(answer="Bacon", tools=["web_search"], **columns)
    assert REWARDS["hier_search"](wrong, local_first=True) == [0.05 - 1.0]


def test_hier_search_edges():
    columns = {"golds": GOLDS, "tools": ["web_search", "web_search", "other"]}
    offered = {"tools_offered": ["chunk_search", "web_search"]}
    assert REWARDS["hier_search"](one(answer="Bacon", tools_offered=[], **columns)) == [0.1]
    assert REWARDS["hier_search"](one(answer="Bacon", **columns, **offered)) == [0.05]
    assert REWARDS["hier_search"](one(answer=None, **columns, **offered)) == [0.0]
    assert REWARDS["hier_search"](one(answer="Shakespeare", finished=False, **columns, **offered)) == [0.0]
    assert REWARDS["hier_search"](one(answer="Shakespeare", well_formed=False, **columns, **offered)) == [0.0]


CHAT = "<|im_start|>assistant\n{}<|im_end|>"
KNOWLEDGE = "<|im_start|>tool\n<knowledge>k <query>q</query></knowledge><|im_end|>"


@cases("graph_r1")
@pytest.mark.parametrize("between", ["", "\n", "\n<knowledge>k</knowledge>\n", "chat"])
def test_graph_r1(case, between):
    given = case["inputs"]
    turns = given["assistant_blocks"]
    text = between.join(turns) if between != "chat" else KNOWLEDGE.join(CHAT.format(turn) for turn in turns)
    check("graph_r1", case, one(text=text, golds=given["golden_answers"]))


QUERY, ANSWER = "<think>a</think>\n<query>q</query>", "<think>b</think>\n<answer>Shakespeare</answer>"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (QUERY + ANSWER, 1.0),
        (QUERY * 3 + ANSWER, 2.0),
        (QUERY, 0.0),
        (QUERY + QUERY, 0.5),
        (QUERY + "so " + ANSWER, 0.5),
        ("well, " + QUERY + ANSWER, 0.5),
        (QUERY.replace("\n", " ") + ANSWER, 0.5),
        (QUERY.replace("a<", "<think>a</think><") + ANSWER, 0.5),
        (QUERY + "<answer>Shakespeare</answer>", 0.5),
        ("", 0.0),
    ],
)
def test_graph_r1_form(text, form):
    assert graph_r1_form(text) == form


def test_graph_r1_from_columns():
    group = Group.of(
        correct=[True, True, True, False, True],
        length=[9] * 5,
        answer=["Shakespeare", "Shakespeare", "Shakespeare", "Bacon", None],
        golds=GOLDS,
        searches=[0, 1, 2, 1, 0],
        well_formed=[True, True, False, True, False],
    )
    assert REWARDS["graph_r1"](group).tolist() == [-0.5, 1.0, 1.0, 0.0, -1.0]
    with pytest.raises(DataError, match="searches"):
        REWARDS["graph_r1"](one(answer="Shakespeare", golds=GOLDS, well_formed=True))


R1_CASES = [(key, case) for key in GOLDEN if key.startswith("r1searcher_") for case in GOLDEN[key]]


@pytest.mark.parametrize(("key", "case"), R1_CASES, ids=[f"{key}-{case['inputs']['case']}" for key, case in R1_CASES])
@pytest.mark.parametrize("opening", ["", "<think>"])
def test_r1_searcher(key, case, opening):
    given = case["inputs"]
    group = one(text=opening + given["response_after_think_prefix"], golds=[given["gold"]])
    check("r1_searcher", case, group, variant=key.removeprefix("r1searcher_"))


FOUND = "<|begin_of_query|>q<|end_of_query|>\n\n<|begin_of_documents|>\n(1)d\n<|end_of_documents|>\n\n"
GOOD = "</think> <answer>William Shakespeare</answer>"


@pytest.mark.parametrize(
    ("text", "qwen", "llama", "first_stage"),
    [
        (FOUND * 2 + GOOD, 1.0, 1.0, 2.0),
        ("<|begin_of_query|>q<|end_of_query|>" + GOOD, -1.0, 0.0, 1.5),
        (FOUND.replace("(1)", "") + GOOD, -1.0, 0.0, 1.5),
        ("the Assistant " + GOOD, -1.0, 1.0, 1.5),
        ("<think> again </think>" + GOOD, -1.0, 0.0, 1.0),
        ("<answer>William Shakespeare</answer>", -1.0, 0.0, 1.0),
        ("a </think> b", -2.0, -1.0, -1.0),
        (GOOD + "<answer>William Shakespeare</answer>", -1.0, 0.0, 1.0),
        ("莎士比亚" + GOOD, -1.0, 0.0, 1.5),
        (FOUND.replace(")d", ")莎士比亚") + GOOD, 1.0, 1.0, 2.0),
        ("</think> <answer>Shakespeare, one William</answer>", 0.8, 0.8, 1.5),
        ("</think> <answer>" + "William Shakespeare " * 6 + "</answer>", 4 / 14 - 2, 4 / 14, 1.5),
    ],
)
def test_r1_searcher_forms(text, qwen, llama, first_stage):
    group = one(text=text, golds=["William Shakespeare"])
    for variant, expected in [("qwen_stage2", qwen), ("llama_stage2", llama), ("llama_stage1", first_stage)]:
        np.testing.assert_allclose(REWARDS["r1_searcher"](group, variant=variant), [expected], err_msg=variant)


def test_r1_searcher_normaliser():
    for said, gold in [("New_York", "new-york"), ("True", "yes"), ("False", "no"), ("the U.S.", "u s")]:
        assert REWARDS["r1_searcher"](one(answer=said, golds=[gold])) == [1.0], said


def test_r1_searcher_from_columns():
    columns = {"answer": "Shakespeare", "golds": GOLDS}
    for variant, fine in [("qwen_stage2", 2.0), ("llama_stage2", 1.0)]:
        for formed in (True, False):
            group = one(well_formed=formed, **columns)
            assert REWARDS["r1_searcher"](group, variant=variant) == [1.0 - fine * (not formed)]
    searched = one(well_formed=False, searches=2, **columns)
    assert REWARDS["r1_searcher"](searched, variant="llama_stage1") == [1.5]
    assert r1_searches(FOUND * 2) == 2


# EviNote-RAG, AutoRefine


@pytest.mark.parametrize("outcome", ["em", "f1"])
def test_evinote(outcome):
    for case in GOLDEN["evinote_" + outcome]:
        given = case["inputs"]
        (probability,) = [value for name, value in given.items() if name.startswith("entailment_prob")]
        text = given["response"]
        group = one(text=text, golds=given["golden_answers"], notes=blocks(text, "summary"), entailment=probability)
        check("evinote", case, group, outcome=outcome, mark_bonus=case["params"]["mark_bonus"])


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


def test_autorefine_edges():
    autorefine = REWARDS["autorefine"]
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
