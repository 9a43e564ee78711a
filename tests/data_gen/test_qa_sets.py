"""Question-answering data sets: rows as they are released, made up here, and what is said of rows that are not."""

from __future__ import annotations

import json

import pytest

from laconic.data_gen.qa_sets import QA_SETS, load_qa, passages
from laconic.data_gen.sources import gold_text
from laconic.inference.retrieval.documents import distinct
from laconic.rewards.answers import verify
from laconic.rewards.errors import DataError, RecipeError

CONTEXT = [["Spree", ["The Spree is a river. ", "It passes Berlin."]], ["Elbe", ["The Elbe is a river."]]]
HOTPOT = {
    "id": "5a8b",
    "question": "Into which river flows the river of Berlin?",
    "answer": "the Havel",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": {"title": ["Spree", "Spree", "Havel"], "sent_id": [0, 1, 0]},
    "context": {"title": [title for title, _ in CONTEXT], "sentences": [lines for _, lines in CONTEXT]},
}
ROWS = {
    "nq": {"question": "who built the long bridge ", "answer": ["Ann Smith", "A. Smith"]},
    "triviaqa": {
        "question": "Which river passes Berlin?",
        "question_id": "tc_7",
        "answer": {"value": "Spree", "aliases": ["River Spree", "Spree"], "normalized_aliases": ["spree"]},
    },
    "popqa": {
        "id": 42,
        "question": "What is Ann Smith's occupation?",
        "prop": "occupation",
        "s_pop": 123,
        "possible_answers": '["engineer", "civil engineer"]',
    },
    "hotpotqa": HOTPOT,
    "2wikimultihopqa": {
        "_id": "88f1",
        "type": "compositional",
        "question": "Where was the builder of the long bridge born?",
        "answer": "York",
        "supporting_facts": [["Long Bridge", 0], ["Ann Smith", 1]],
        "context": CONTEXT,
    },
    "musique": {
        "id": "3hop1__11_22_33",
        "question": "Who leads the town of the builder of the long bridge?",
        "answer": "Bo Chan",
        "answer_aliases": ["Chan"],
        "answerable": True,
        "paragraphs": [
            {"idx": 0, "title": "York", "paragraph_text": "York is led by Bo Chan.", "is_supporting": True},
            {"idx": 1, "title": "Leeds", "paragraph_text": "Leeds is a city.", "is_supporting": False},
        ],
    },
    "bamboogle": {"Question": "Who led York when the long bridge was built?", "Answer": "Cy Dole"},
}
EXPECTED = {
    "nq": ("nq-test-0", "Ann Smith", ["A. Smith"], {}),
    "triviaqa": ("triviaqa-tc_7", "Spree", ["River Spree"], {}),
    "popqa": ("popqa-42", "engineer", ["civil engineer"], {"prop": "occupation", "s_pop": 123}),
    "hotpotqa": (
        "hotpotqa-5a8b",
        "the Havel",
        [],
        {"type": "bridge", "level": "hard", "gold_titles": ["Spree", "Havel"]},
    ),
    "2wikimultihopqa": (
        "2wikimultihopqa-88f1",
        "York",
        [],
        {"type": "compositional", "gold_titles": ["Long Bridge", "Ann Smith"]},
    ),
    "musique": (
        "musique-3hop1__11_22_33",
        "Bo Chan",
        ["Chan"],
        {"answerable": True, "gold_titles": ["York"], "hops": 3},
    ),
    "bamboogle": ("bamboogle-test-0", "Cy Dole", [], {}),
}


@pytest.fixture
def rows_file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.mark.parametrize("name", QA_SETS)
def test_rows_as_released(name, rows_file):
    (problem,) = load_qa(name, path=rows_file(ROWS[name]))
    id, answer, aliases, meta = EXPECTED[name]
    assert (problem.id, problem.answer, problem.task) == (id, answer, "qa")
    assert problem.meta == {"golds": [answer, *aliases], "aliases": aliases, **meta}
    assert problem.prompt == (ROWS[name].get("question") or ROWS[name]["Question"]).strip()
    assert gold_text(problem) == answer


@pytest.mark.parametrize("name", QA_SETS)
def test_rows_of_flashrag(name, rows_file):
    row = {"id": "test_3", "question": "who?", "golden_answers": ["Ann", "Ann Smith"], "metadata": {}}
    (problem,) = load_qa(name, path=rows_file(row))
    assert (problem.id, problem.answer, problem.meta["aliases"]) == (f"{name}-test_3", "Ann", ["Ann Smith"])


def test_answers_match_exactly_after_normalisation(rows_file):
    (problem,) = load_qa("triviaqa", path=rows_file(ROWS["triviaqa"]))
    assert verify("the  SPREE.", problem)
    assert verify("<think> x </think> <answer> River Spree </answer>", problem)
    assert not verify("the river Spree, in Berlin", problem)
    assert not verify("<answer> Elbe </answer> Spree", problem)


def test_repeated_rows_are_read_once_and_other_answers_are_another_question(rows_file):
    same, other = ROWS["popqa"] | {"id": 43}, ROWS["popqa"] | {"id": 44, "possible_answers": '["poet"]'}
    found = load_qa("popqa", path=rows_file(ROWS["popqa"], same, other))
    assert [problem.id for problem in found] == ["popqa-42", "popqa-44"]
    assert [p.id for p in load_qa("popqa", path=rows_file(ROWS["popqa"], same, other), limit=1)] == ["popqa-42"]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("nq", {"question": "q"}, "'answer'"),
        ("nq", {"question": "q", "answer": []}, "there must be some"),
        ("nq", {"question": "q", "answer": [3]}, "must be texts"),
        ("nq", {"question": " ", "answer": ["a"]}, "there must be some"),
        ("nq", {"question": "q", "answer": ["The"]}, "no answer is left"),
        ("popqa", ROWS["popqa"] | {"possible_answers": "[engineer"}, "JSONDecodeError"),
        ("triviaqa", ROWS["nq"] | {"question_id": "x"}, "TypeError"),
        ("bamboogle", {"question": "q", "answer": "a"}, "'Question'"),
    ],
)
def test_rows_of_another_layout(name, row, said, rows_file):
    with pytest.raises(DataError, match=rf"rows.jsonl:1: not a row of {name}: .*{said}.* it has '") as caught:
        load_qa(name, path=rows_file(row))
    assert "FlashRAG" in caught.value.cure


def test_an_id_for_two_questions(rows_file):
    with pytest.raises(DataError, match=r"rows.jsonl:2: the id 'popqa-42' names two questions"):
        load_qa("popqa", path=rows_file(ROWS["popqa"], ROWS["popqa"] | {"question": "another?"}))


def test_names_and_splits_that_do_not_exist(rows_file):
    with pytest.raises(RecipeError, match="unknown question-answering data set 'squad'"):
        load_qa("squad")
    with pytest.raises(RecipeError, match="bamboogle has no train split"):
        load_qa("bamboogle", "train")
    with pytest.raises(DataError, match="holds no questions"):
        load_qa("nq", path=rows_file())


def test_a_hub_data_set_is_read_like_a_file(tmp_path, monkeypatch):
    """`datasets` reads a folder as it reads the hub."""
    pytest.importorskip("datasets")
    folder = tmp_path / "PopQA"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps(ROWS["popqa"]) + "\n")
    monkeypatch.setitem(
        QA_SETS, "popqa", type(QA_SETS["popqa"])(str(folder), None, {"test": "test"}, QA_SETS["popqa"].read)
    )
    (problem,) = load_qa("popqa")
    assert (problem.id, problem.meta["golds"]) == ("popqa-42", ["engineer", "civil engineer"])
    monkeypatch.setitem(QA_SETS, "popqa", type(QA_SETS["popqa"])(str(tmp_path / "gone"), None, {"test": "t"}, dict))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_qa("popqa")


def test_passages_become_a_corpus():
    other = ROWS["musique"] | {
        "paragraphs": [{"idx": 0, "title": "Spree", "paragraph_text": "Another Spree.", "is_supporting": False}]
    }
    rows = [HOTPOT, ROWS["2wikimultihopqa"], ROWS["musique"], other, ROWS["nq"]]
    found = list(distinct(((document.id, document) for document in passages(rows)), source="rows"))
    assert [(each.id, each.text) for each in found] == [
        ("Spree", "The Spree is a river. It passes Berlin."),
        ("Elbe", "The Elbe is a river."),
        ("York", "York is led by Bo Chan."),
        ("Leeds", "Leeds is a city."),
        ("Spree (2)", "Another Spree."),
    ]
