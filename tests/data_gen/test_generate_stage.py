"""The generate stage as a process and as a function: teachers, gold solutions, a model, a kill, and no rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from laconic.data_gen.rollouts import sample_rollouts
from laconic.data_gen.stage import main
from laconic.inference.engine import Sampling
from laconic.inference.engines.loading import load_model
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.sampling import EngineSampler
from laconic.inference.trace import TraceReader
from laconic.recipes.entry import run_stage
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.records import read_problems, read_rollouts

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def recipe(tmp_path, model_folder):
    """Write a recipe of one generate stage and give the arguments that run it."""

    def write(stage, problems=None, name="chain"):
        chain_sum = {"source": "reasoning_gym", "families": ["chain_sum"], "train": 40, "test": 10}
        text = {
            "name": name,
            "problems": problems or chain_sum,
            "model": {"path": str(model_folder)},
            "stages": [{"kind": "generate", "name": "made", **stage}],
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(text))
        return [str(path), "--runs", str(tmp_path / "runs")]

    return write


def finished(tmp_path, name="chain"):
    (folder,) = (tmp_path / "runs" / name).glob("[0-9]*")
    assert not folder.name.endswith(".partial")
    return folder


def rows_of(folder):
    return list(read_jsonl(folder / "rows.jsonl"))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_teacher_styles_come_in_their_shares(recipe, tmp_path):
    problems = {"source": "reasoning_gym", "families": ["chain_sum"], "train": 400, "test": 10}
    stage = {"teacher": {"styles": {"overthink": 6, "direct": 2}, "redundancy": 2.0}}
    run_stage("generate", main, recipe(stage, problems))
    folder = finished(tmp_path)
    rollouts, rows = list(read_rollouts(folder / "rollouts.jsonl")), rows_of(folder)
    styles = Counter(rollout.source for rollout in rollouts)
    # 400 draws at 1/4: the standard deviation is 8.7.
    assert abs(styles["direct"] - 100) < 44
    assert styles.total() == len(rows) == 400
    assert all(rollout.correct and rollout.finished for rollout in rollouts)
    assert all(rollout.tokens == len(rollout.text.split()) + 1 for rollout in rollouts)
    direct = next(rollout for rollout in rollouts if rollout.source == "direct")
    assert (direct.think_tokens, direct.answer_tokens) == (2, 2)
    problems = {problem.id: problem for problem in read_problems(folder / "problems.jsonl")}
    assert [row["prompt"] for row in rows] == [problems[row["problem_id"]].prompt for row in rows]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rollouts"], summary["rows"], summary["sources"]) == (400, 400, styles)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["tokens"] == sum(rollout.tokens for rollout in rollouts)


def test_gold_solutions_become_traces(recipe, tmp_path):
    train = str(DATA / "gsm8k_small.jsonl")
    test = write_rows(tmp_path / "test.jsonl", [{"question": "Another one ?", "answer": "It is so.\n#### 1"}])
    problems = {"source": "jsonl", "layout": "gsm8k", "train": train, "test": test}
    run_stage("generate", main, recipe({"teacher": {"source": "gold"}}, problems))
    rows = rows_of(finished(tmp_path))
    assert len(rows) == 20
    assert rows[4]["completion"] == "<think> It makes 40*30=1200 posters. </think> 1200"


def test_contaminated_training_problems_are_left_out(recipe, tmp_path):
    lines = (DATA / "gsm8k_small.jsonl").read_text().splitlines()
    # The test file has the third training problem with another beginning.
    taken = json.loads(lines[2])
    taken["question"] = "Last week " + taken["question"]
    test = write_rows(tmp_path / "test.jsonl", [taken])
    problems = {"source": "jsonl", "layout": "gsm8k", "train": str(DATA / "gsm8k_small.jsonl"), "test": test}
    run_stage("generate", main, recipe({"teacher": {"source": "gold"}, "limit": 5}, problems))
    folder = finished(tmp_path)
    used = [problem.id for problem in read_problems(folder / "problems.jsonl")]
    assert used == ["train-0", "train-1", "train-3", "train-4", "train-5"]
    dropped = json.loads((folder / "summary.json").read_text())["dropped"]
    assert dropped["decontaminate"] == {"shares 8 consecutive words with a test prompt": 1}
    kept = recipe({"teacher": {"source": "gold"}, "limit": 5, "decontaminate": False}, problems, name="kept")
    run_stage("generate", main, kept)
    assert rows_of(finished(tmp_path, "kept"))[2]["problem_id"] == "train-2"


def test_what_is_skipped_is_left_to_a_later_stage(recipe, tmp_path, capsys):
    train = str(DATA / "gsm8k_small.jsonl")
    test = write_rows(tmp_path / "test.jsonl", [{"question": "Another one ?", "answer": "It is so.\n#### 1"}])
    problems = {"source": "jsonl", "layout": "gsm8k", "train": train, "test": test}
    run_stage("generate", main, recipe({"teacher": {"source": "gold"}, "skip": 17, "limit": 2}, problems))
    assert [row["problem_id"] for row in rows_of(finished(tmp_path))] == ["train-17", "train-18"]
    with pytest.raises(SystemExit):
        run_stage("generate", main, recipe({"teacher": {"source": "gold"}, "skip": 20}, problems, name="none"))
    assert "made: skip: 20 leaves none of 20 problems" in capsys.readouterr().err


def test_no_rows_is_an_error_that_counts(recipe, tmp_path, capsys):
    stage = {"samples": 2, "limit": 6, "keep": "shortest_vs_longest", "sampling": {"max_tokens": 3}}
    with pytest.raises(SystemExit) as left:
        run_stage("generate", main, recipe(stage))
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert "keep: shortest_vs_longest: 0 of 6 problems have two correct samples of different length" in message
    assert "of 12 rollouts 0 are correct" in message
    (folder,) = (tmp_path / "runs" / "chain").glob("*.partial")
    assert len(list(read_rollouts(folder / "rollouts.jsonl"))) == 12
    assert not (folder / "rows.jsonl").exists()


def test_unusable_gold_answers_stop_the_stage(recipe, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "answer": "$"}])
    problems = {"source": "jsonl", "train": path, "test": path, "task": "math"}
    with pytest.raises(SystemExit):
        run_stage("generate", main, recipe({"keep": "all", "decontaminate": False}, problems))
    assert "1 of 1 gold answers are refused by their own verifier: train-0 ('$')" in capsys.readouterr().err


def test_a_killed_stage_goes_on_to_the_same_file(recipe, tmp_path, random_model, model_folder):
    # Double precision, so that the equality below does not hang on rounding.
    random_model().double().save_pretrained(model_folder)
    rows = [{"prompt": " ".join(map(str, range(i % 50, i % 50 + 1 + i % 8))), "answer": str(i)} for i in range(300)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    problems = {"source": "jsonl", "train": path, "test": path}
    stage = {"samples": 3, "keep": "all", "decontaminate": False, "sampling": {"max_tokens": 48}}
    arguments = recipe(stage, problems)
    command = [sys.executable, "-m", "laconic.data_gen.stage", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    partial = wait_for_rows(process, tmp_path / "runs" / "chain", at_least=100)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = partial.read_text()
    complete = before[: before.rfind("\n") + 1].splitlines()
    subprocess.run(command, env=environment, check=True)
    folder = finished(tmp_path)
    lines = (folder / "rollouts.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(problem_ids(folder)) * 3
    assert set(complete) < set(lines)
    model, tokenizer = load_model(model_folder)
    uninterrupted = tmp_path / "uninterrupted.jsonl"
    with EngineSampler(TransformersEngine(model, tokenizer, batch_size=256, signals=False)) as sampler:
        sample_rollouts(
            sampler,
            TraceReader(tokenizer),
            list(read_problems(folder / "problems.jsonl")),
            samples=3,
            sampling=Sampling(max_tokens=48),
            seed=0,
            path=uninterrupted,
            source="base",
        )
    assert uninterrupted.read_text().splitlines() == lines


def problem_ids(folder):
    return {problem.id for problem in read_problems(folder / "problems.jsonl")}


def wait_for_rows(process, run_dir, *, at_least):
    """Wait until the working stage has flushed some rollouts; it must still be at work then."""
    while process.poll() is None:
        for path in run_dir.glob("*.partial/rollouts.jsonl"):
            if path.read_bytes().count(b"\n") >= at_least:
                return path
        time.sleep(0.02)
    raise AssertionError(f"the stage ended with {process.returncode} before it could be killed")
