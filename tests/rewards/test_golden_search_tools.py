"""HierSearch, Graph-R1 and R1-Searcher against numbers of the authors' own code, and at their edges."""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import DataError
from laconic.rewards.search.markup import graph_r1_form, is_hier_search_form, r1_searches
from laconic.rewards.search.tools import web_penalty

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())
CLOSE = {"atol": 1e-6, "rtol": 0}
GOLDS = ["William Shakespeare", "Shakespeare"]


def one(**columns):
    """A group of one rollout whose columns are given without the list around them."""
    problem = {name: columns.pop(name) for name in ("golds", "tools_offered") if name in columns}
    return Group.of([True], [9], **problem, **{name: [value] for name, value in columns.items()})


def check(name, case, group, expected=None, **parameters):
    np.testing.assert_allclose(
        REWARDS[name](group, **parameters), [case["expected"] if expected is None else expected], **CLOSE
    )


def cases(key):
    return pytest.mark.parametrize("case", GOLDEN[key], ids=lambda case: case["inputs"].get("case"))


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


def test_web_penalty_leaves_agents_out():
    assert web_penalty(["local_search_agent"] * 3 + ["web_search"]) == -1.0
    assert web_penalty(["web_search_agent", *["graph_search"] * 3, "web_search"]) == -0.2
    assert web_penalty(["all_search_agent"]) == 0.0


CALL = "<web_search>q</web_search><result>r</result>"
SAID = "<answer>Shakespeare</answer>"


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        (f"<think>a</think>{SAID}", True),
        (f"<think>a</think>{CALL}<think>b</think>{CALL.replace('web', 'graph')}{SAID}", True),
        (f"<think>a</think>{CALL.replace('web_search', 'local_search_agent')}{SAID}", True),
        (SAID, False),
        (f"<think>a{SAID}", False),
        (f"<think>a</think><think>b{SAID}", False),
        (f"<think>a</think>{SAID}{SAID}", False),
        ("<think>a</think></answer>Shakespeare<answer>", False),
        ("<think>a</think>", False),
        (f"<think>a</think><web_search>q</web_search>{SAID}", False),
        (f"<think>a</think><browse_url>q<result>r</result>{SAID}", False),
        (f"<think>a</think><web_search>q<result>r</result></web_search>{SAID}", False),
        (f"<think>a</think><web_search>q</web_search><result>r{SAID}", False),
        (f"<think>a</think><web_search>q</web_search>{CALL.replace('web', 'chunk')}{SAID}", False),
        (f"<think>a</think>{CALL}<chunk_search>q</chunk_search>{SAID}", False),
    ],
)
def test_hier_search_form(text, formed):
    assert is_hier_search_form(text) is formed
    columns = {"golds": GOLDS, "tools": [], "tools_offered": ["web_search"]}
    assert REWARDS["hier_search"](one(text=text, **columns)) == [float(formed)]
    # The column is believed before the text.
    assert REWARDS["hier_search"](one(text=text, answer="Shakespeare", well_formed=True, **columns)) == [1.0]


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


def test_graph_r1_counts_executed_searches_never_tags():
    texts = [QUERY + ANSWER, QUERY + ANSWER, ANSWER, QUERY + "<answer>Shakespeare</answer>"]
    group = Group.of([True] * 4, [9] * 4, text=texts, golds=GOLDS, searches=[0, 1, 1, 1])
    assert REWARDS["graph_r1"](group).tolist() == [-0.5, 1.0, 1.0, -0.5]
    told = Group.of([True] * 3, [9] * 3, answer=["Shakespeare"] * 3, golds=GOLDS, searches=[0, 1, 2])
    assert REWARDS["graph_r1"](told).tolist() == [-0.5, 1.0, 1.0]


@cases("graph_r1")
def test_graph_r1_from_text_and_searches(case):
    turns = case["inputs"]["assistant_blocks"]
    columns = {"golds": case["inputs"]["golden_answers"], "searches": len(turns) - 1}
    check("graph_r1", case, one(text="\n".join(turns), **columns))
    check("graph_r1", case, one(answer="Shakespeare", **columns))


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


def test_r1_searcher_counts_executed_searches_never_marks():
    told = Group.of([True] * 2, [9] * 2, answer=["Shakespeare"] * 2, golds=GOLDS, searches=[0, 1])
    assert REWARDS["r1_searcher"](told, variant="llama_stage1").tolist() == [1.5, 2.0]
    texts = [FOUND + GOOD, GOOD, FOUND + GOOD.replace("</think>", "")]
    read = Group.of([True] * 3, [9] * 3, text=texts, golds=GOLDS, searches=[0, 1, 1])
    assert REWARDS["r1_searcher"](read, variant="llama_stage1").tolist() == [1.5, 2.0, 1.5]
    with pytest.raises(DataError, match="no 'searches'"):
        REWARDS["r1_searcher"](one(answer="Shakespeare", golds=GOLDS), variant="llama_stage1")
