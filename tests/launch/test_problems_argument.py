"""Problems as a command line names them."""

import json
from pathlib import Path

import pytest

from laconic.launch.problems_argument import load_argument
from laconic.rewards.errors import DataError, RecipeError

RECIPE = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_recipe_gives_its_test_problems_first_and_more_of_them_if_asked():
    own = load_argument(RECIPE)
    more = load_argument(f"{RECIPE}:test", limit=520)
    assert (len(own), len(more)) == (500, 520)
    assert more[:500] == own
    train = load_argument(f"{RECIPE}:train", limit=30)
    assert len(train) == 30
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in more}


def test_problems_of_a_run_folder_come_back_as_they_were(tmp_path):
    problems = load_argument(RECIPE, limit=5)
    path = written(tmp_path / "problems.jsonl", *(problem.to_json() for problem in problems))
    assert load_argument(path) == problems
    assert load_argument(path, limit=2) == problems[:2]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "2 + 2", "answer": "4"}, ("2 + 2", "4", "exact")),
        ({"question": "How many?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, ("How many?", "4", "math")),
        ({"problem": "How many?", "solution": r"\boxed{4}"}, ("How many?", "4", "math")),
    ],
    ids=["generic", "gsm8k", "math"],
)
def test_layouts_are_told_by_their_columns(tmp_path, row, found):
    (problem,) = load_argument(written(tmp_path / "rows.jsonl", row))
    assert (problem.prompt, problem.answer, problem.task) == found


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no problems"),
        ([{"prompt": "?"}], r"rows.jsonl:1: no column 'answer'"),
        ([{"id": "a", "prompt": "x", "answer": "1"}, {"id": "a", "prompt": "y", "answer": "1"}], "names two problems"),
        ([{"id": "a", "prompt": "x", "answer": "1", "task": "exact", "meta": {}, "hint": 1}], "unknown key 'hint'"),
    ],
    ids=["empty", "column", "twice", "key"],
)
def test_a_file_without_problems_is_refused(tmp_path, rows, says):
    with pytest.raises(DataError, match=says):
        load_argument(written(tmp_path / "rows.jsonl", *rows))


def test_a_question_that_is_there_twice_is_one_problem(tmp_path):
    rows = [{"id": f"q{k}", "prompt": f"{k % 3} + 1 =", "answer": str(k % 3 + 1)} for k in range(9)]
    path = written(tmp_path / "rows.jsonl", *rows)
    assert [problem.id for problem in load_argument(path)] == ["q0", "q1", "q2"]
    assert len(load_argument(path, limit=2)) == 2
    path = written(tmp_path / "rows.jsonl", *rows[:2], {"id": "x", "prompt": "1 + 1 = ", "answer": "3"})
    with pytest.raises(DataError, match=r"rows\.jsonl:3: asks what 'q1' asks, but has another answer"):
        load_argument(path)


def test_a_split_that_there_is_not_is_named():
    with pytest.raises(RecipeError, match="no such split"):
        load_argument(f"{RECIPE}:tset")
    with pytest.raises(RecipeError, match="no such recipe"):
        load_argument("quikstart.yaml")
