"""Loading problems: three layouts, a hub folder, golds that pass, and what is said about files that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from laconic.data_gen.sources import gold_text, load_problems, training_text, validate_golds, vocabulary
from laconic.recipes.problems_model import FileProblems, HubProblems, ProceduralProblems
from laconic.rewards.answers import verify
from laconic.rewards.boxed import last_boxed
from laconic.rewards.errors import DataError

DATA = Path(__file__).parent.parent / "data"
GSM8K, MATH = str(DATA / "gsm8k_small.jsonl"), str(DATA / "math_small.jsonl")


def file_spec(path, **more):
    return FileProblems(**{"source": "jsonl", "train": str(path), "test": str(path), **more})


@pytest.fixture
def rows_file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.mark.parametrize(("path", "layout"), [(GSM8K, "gsm8k"), (MATH, "math")])
def test_all_golds_pass_their_own_verifier(path, layout):
    problems = load_problems(file_spec(path, layout=layout), "train", 0)
    assert len(problems) == 20
    assert {problem.task for problem in problems} == {"math"}
    validate_golds(problems)
    # The verifier does tell answers apart: the neighbour's gold is wrong.
    wrong = [verify(gold_text(other), one) for one, other in pairwise(problems)]
    assert wrong == [False] * 19


def test_gsm8k_layout():
    problems = load_problems(file_spec(GSM8K, layout="gsm8k"), "train", 0)
    assert [problem.id for problem in problems[:2]] == ["train-0", "train-1"]
    roof, posters = problems[3], problems[4]
    assert roof.answer == "900"
    assert roof.meta["solution"] == "The roof needs 1250/125=10 pallets.\nThey cost 10*90=$900."
    assert roof.difficulty == 2
    assert posters.answer == "1200"
    assert not any("<<" in problem.meta["solution"] or "####" in problem.meta["solution"] for problem in problems)


def test_math_layout(rows_file):
    problem = load_problems(file_spec(MATH, layout="math"), "test", 0)[11]
    assert (problem.id, problem.answer, problem.difficulty) == ("small/number_theory/12.json", "21_5", 3)
    # The original MATH release has no answer column, and its level is text.
    path = rows_file({"problem": "p", "solution": r"so $\boxed{\frac{1}{2}}$.", "level": "Level 4", "type": "Algebra"})
    (original,) = load_problems(file_spec(path, layout="math"), "test", 0)
    assert (original.answer, original.difficulty) == (r"\frac{1}{2}", 4)


def test_last_boxed():
    assert last_boxed(r"\boxed{1} then \boxed{\frac{a}{b}}.") == r"\frac{a}{b}"
    assert last_boxed("none") is None
    assert last_boxed(r"\boxed{never closed") is None


def test_generic_layout(rows_file):
    path = rows_file(
        {"prompt": "a ?", "answer": 3},
        {"prompt": "b ?", "answer": "x y", "id": "own", "task": "math", "difficulty": 2, "solution": "because"},
    )
    first, second = load_problems(file_spec(path), "test", 0)
    assert (first.id, first.answer, first.task, first.meta) == ("test-0", "3", "exact", {})
    assert (second.id, second.task, second.difficulty, second.meta) == ("own", "math", 2.0, {"solution": "because"})
    assert load_problems(file_spec(path, task="exact"), "test", 0)[1].task == "exact"


def test_limit_takes_the_first_rows_and_repeats_do_not_count(rows_file):
    path = rows_file(*({"prompt": prompt, "answer": "1"} for prompt in ["a b", "a  b", "c", "d"]))
    problems = load_problems(file_spec(path, limit_train=2), "train", 0)
    assert [problem.prompt for problem in problems] == ["a b", "c"]
    assert len(load_problems(file_spec(path, limit_train=2), "test", 0)) == 3


@pytest.mark.parametrize(
    ("rows", "layout", "message"),
    [
        ([{"question": "q", "answer": "1"}], "generic", r"row 1: no column 'prompt'; it has 'question', 'answer'"),
        ([{"prompt": "q", "answer": "1"}, {"prompt": "r", "answer": " "}], "generic", r"row 2: column 'answer' holds"),
        ([{"prompt": "q", "answer": None}], "generic", r"column 'answer' holds None"),
        ([{"prompt": "q", "answer": True}], "generic", r"column 'answer' holds True"),
        ([{"prompt": "q", "answer": "1", "difficulty": "hard"}], "generic", r"column 'difficulty' holds 'hard'"),
        ([{"question": "q", "answer": "it is 4"}], "gsm8k", r"row 1: its answer does not end in '#### <number>'"),
        ([{"problem": "q", "solution": "no box"}], "math", r"no column 'answer'; it has 'problem', 'solution'"),
        (
            [{"prompt": "q", "answer": "1", "id": 7}, {"prompt": "r", "answer": "1", "id": "7"}],
            "generic",
            r"row 2: .*7",
        ),
        ([], "generic", r"problems.train: .*rows.jsonl holds no rows"),
    ],
)
def test_unusable_rows_are_named(rows_file, rows, layout, message):
    with pytest.raises(DataError, match=message) as caught:
        load_problems(file_spec(rows_file(*rows), layout=layout), "train", 0)
    assert caught.value.cure


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        load_problems(file_spec(tmp_path / "absent.jsonl"), "train", 0)


def test_unusable_golds_are_counted_and_named(rows_file):
    path = rows_file(*({"prompt": f"q{i}", "answer": gold} for i, gold in enumerate(["3", "$", "4", "}{"])))
    problems = load_problems(file_spec(path, task="math"), "train", 0)
    with pytest.raises(DataError, match=r"2 of 4 gold answers .* train-1 \('\$'\), train-3 \('}{'\)"):
        validate_golds(problems)


def test_hub_data_set_from_a_folder(tmp_path):
    rows = [{"Question": f"q {i}", "Gold": str(i), "other": 0} for i in range(5)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"source": "hub", "dataset": str(tmp_path), "train": "train", "test": "test"}
    columns = {"prompt": "Question", "answer": "Gold"}
    problems = load_problems(HubProblems(**spec, columns=columns, limit_train=3), "train", 0)
    assert [(p.id, p.prompt, p.answer) for p in problems] == [(f"train-{i}", f"q {i}", str(i)) for i in range(3)]
    with pytest.raises(DataError, match=r"no column 'gold' \(problems.columns\)\n.*Question, Gold, other"):
        load_problems(HubProblems(**spec, columns={"prompt": "Question", "answer": "gold"}), "train", 0)
    with pytest.raises(DataError, match=r"no column 'prompt'; it has 'Question'"):
        load_problems(HubProblems(**spec), "train", 0)
    with pytest.raises(DataError, match=r"problems.dataset: .*split validation\) cannot be loaded"):
        load_problems(HubProblems(**{**spec, "test": "validation"}), "test", 0)


def test_procedural_problems_are_mixed_and_disjoint():
    spec = ProceduralProblems(source="reasoning_gym", families=("chain_sum", "gcd"), train=31, test=20)
    train, test = load_problems(spec, "train", 0), load_problems(spec, "test", 0)
    assert [problem.task for problem in train[:4]] == ["chain_sum", "gcd", "chain_sum", "gcd"]
    assert (len(train), len(test)) == (31, 20)
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}
    assert load_problems(spec, "train", 0) == train
    assert load_problems(spec, "train", 1) != train
    validate_golds(train + test)


def test_vocabulary_covers_every_text_of_training():
    from laconic.data_gen.lessons import taught
    from laconic.data_gen.teachers import STYLES
    from laconic.inference.trace import THINK_CLOSE, THINK_OPEN

    spec = ProceduralProblems(source="reasoning_gym", families=("chain_sum", "gcd"), train=60, test=20)
    words = vocabulary(spec)
    assert words == sorted(set(words))
    known = {*words, THINK_OPEN, THINK_CLOSE}
    problems = load_problems(spec, "train", 0)
    for rollout in taught(problems, dict.fromkeys(STYLES, 1.0), redundancy=2.0, samples=2, seed=0):
        assert set(rollout.text.split()) <= known
    assert {word for text in training_text(spec, 0) for word in text.split()} <= known


def test_training_text_of_files_has_prompts_answers_and_solutions():
    texts = list(training_text(file_spec(GSM8K, layout="gsm8k", limit_train=2), 0))
    assert texts[1] == "47"
    assert texts[2].startswith("Mira plants 6*9=54")
    assert len(texts) == 6
    assert "seedlings" in vocabulary(file_spec(GSM8K, layout="gsm8k"))


def test_names_of_data_gen_load_no_heavy_library():
    code = (
        "import sys; from laconic.data_gen import clean, layouts, pairs, select, sources, families, teachers;"
        "heavy = {'torch', 'transformers', 'datasets', 'trl', 'math_verify', 'reasoning_gym'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_problems_with_a_bad_gold_are_dropped_only_on_request(tmp_path, capsys):
    rows = [{"problem": f"question {n}?", "answer": answer} for n, answer in enumerate(["7", "\\text{ }", "8"])]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = FileProblems(source="jsonl", layout="math", train=str(path), test=str(path))
    problems = load_problems(spec, "train", 0)
    with pytest.raises(DataError, match=r"1 of 3 gold answers .*train-1"):
        validate_golds(problems, spec)
    dropping = spec.model_copy(update={"bad_golds": "drop"})
    assert [problem.id for problem in validate_golds(problems, dropping)] == ["train-0", "train-2"]
    assert "1 of 3 problems dropped" in capsys.readouterr().out
    with pytest.raises(DataError, match="1 of 1"):
        validate_golds(problems[1:2], dropping)
