"""Policies over problems: exact accounts, equal seeds, files that a killed run leaves usable, failures by name."""

import asyncio
import hashlib
import json
from dataclasses import replace

import pytest

from laconic.data_gen.rollouts import request_seed
from laconic.eval.policy_digests import model_digest, module_digest, parameter_files
from laconic.eval.policy_runs import Questions, at_once, run_choice
from laconic.inference.calibrate import calibrate
from laconic.inference.engine import Capability, Sampling, Token
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.opening import Opened
from laconic.inference.policies.choose import parse_choice
from laconic.inference.recording import Checkpoint, Recording
from laconic.inference.target import Target
from laconic.rewards.errors import DataError, LaunchError
from laconic.rewards.records import Problem, read_rollouts

PROBLEMS = [Problem(f"p{at}", f"{at} + 1 =", str(at + 1), "chain_sum") for at in range(6)]


def says(context):
    """One step of thinking, and the right answer to "n + 1 =" unless the seed is odd."""
    if "</think>" not in context.text:
        yield from ("<think>", " so", " ", "</think>")[context.generated.get("think", 0) :]
    yield str(int(str(context.prompt).split()[0]) + 1 + context.seed % 2)


def certain(context):
    """As `says`, with the probability of each token."""
    for text in says(context):
        yield Token(text, logprob=-0.1)


def run(spec, path, *, script=says, samples=1, problems=PROBLEMS, **engine):
    scripted = ScriptedEngine(script, **engine)
    questions = Questions(problems=problems, sampling=Sampling(max_tokens=20), samples=samples, seed=4)
    with asyncio.Runner() as runner:
        rows = run_choice(
            parse_choice(spec), Opened(scripted, "scripted"), questions, runner=runner, path=path, source="m"
        )
    return rows, scripted


def test_rollouts_hold_answers_verdicts_and_the_whole_ledger(tmp_path):
    rows, engine = run("plain", tmp_path / "plain.jsonl", samples=2)
    assert [(row.problem_id, row.sample) for row in rows] == [(p.id, s) for p in PROBLEMS for s in range(2)]
    assert [row.correct for row in rows] == [request_seed(4, p.id, s) % 2 == 0 for p in PROBLEMS for s in range(2)]
    assert {row.seed for row in rows} == {request_seed(4, p.id, s) for p in PROBLEMS for s in range(2)}
    for row in rows:
        assert (row.tokens, row.think_tokens, row.answer_tokens) == (6, 4, 2)
        assert row.meta["ledger"]["by_role"]["think"] == {"kept": 4, "voted": 0, "discarded": 0}
        assert (row.meta["finish"], row.meta["abstained"], row.finished) == ("stop", False, True)
    assert engine.emitted == sum(row.tokens for row in rows)
    assert list(read_rollouts(tmp_path / "plain.jsonl")) == rows


def test_what_is_not_the_answer_counts_as_thinking(tmp_path):
    spec = 'answer_consistency:every=2,suffix="",probe_tokens=1,threshold=9'
    rows, engine = run(spec, tmp_path / "probed.jsonl")
    assert engine.emitted == sum(row.tokens for row in rows)
    for row in rows:
        probes = row.meta["ledger"]["by_role"]["probe"]["discarded"]
        assert probes >= 1
        assert (row.think_tokens, row.answer_tokens) == (4 + probes, 2)


def test_a_withheld_answer_is_wrong(tmp_path):
    def differs(context):
        yield str(context.seed % 7919)

    rows, _ = run(
        "selective:policy=self_consistency,parameters={samples: 3},threshold=0.9", tmp_path / "s", script=differs
    )
    assert [(row.answer, row.correct, row.meta["abstained"]) for row in rows] == [(None, False, True)] * len(PROBLEMS)
    assert all(row.tokens == 6 for row in rows)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "plain.jsonl"
    rows, _ = run("plain", path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace('"text": "', '"text": "kept ') for line in lines[:4]) + lines[4][:30])
    again, engine = run("plain", path)
    assert [row.text for row in again] == ["kept " + row.text for row in rows[:4]] + [row.text for row in rows[4:]]
    assert engine.emitted == sum(row.tokens for row in rows[4:])


def test_a_failed_question_is_named_and_the_others_are_kept(tmp_path):
    def breaks(context):
        yield from ([RuntimeError("out of memory")] if str(context.prompt).startswith("3") else says(context))

    path = tmp_path / "plain.jsonl"
    with pytest.raises(LaunchError, match=r"1 of 6 questions.*'p3', sample 0: RuntimeError: out of memory"):
        run("plain", path, script=breaks)
    assert {row.problem_id for row in read_rollouts(path)} == {p.id for p in PROBLEMS} - {"p3"}
    rows, engine = run("plain", path)
    assert [row.problem_id for row in rows] == [p.id for p in PROBLEMS]
    assert engine.emitted == 6


def test_when_nothing_works_no_further_question_is_asked(tmp_path):
    asked = []

    def broken(context):
        asked.append(context.prompt)
        yield RuntimeError("gone")

    problems = [replace(PROBLEMS[0], id=f"q{at}") for at in range(100)]
    with pytest.raises(LaunchError, match="100 of 100 questions"):
        run("plain", tmp_path / "f", script=broken, problems=problems, slots=2)
    assert 10 <= len(asked) <= 12


def test_a_file_of_another_policy_is_refused(tmp_path):
    run("same=self_consistency:samples=2", tmp_path / "same.jsonl")
    with pytest.raises(DataError, match="another policy"):
        run("same=self_consistency:samples=3", tmp_path / "same.jsonl")
    rows, engine = run("same=self_consistency:samples=2", tmp_path / "same.jsonl")
    assert (len(rows), engine.emitted) == (6, 0)


def calibrated(path, suffix):
    points = (Checkpoint(0.5, 0.0, 40), Checkpoint(0.9, 0.0, 60))
    recordings = [Recording(str(k), 0.0, 100, 1, points) for k in range(200)]
    settings = {"answer_by": "probe", "concurrent": False, "suffix": suffix, "probe_tokens": 1, "every": 2}
    names = {"policy": "confidence_probe", "parameter": "threshold"}
    calibrate(recordings, Target(max_drop=0.05), **names, settings=settings).save(path)
    return f"c=calibrated:artefact={path}"


def test_answers_with_an_artefact_that_was_rewritten_are_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    spec = calibrated(tmp_path / "c.json", "")
    rows, _ = run(spec, path, script=certain)
    assert run(spec, path, script=certain)[1].emitted == 0
    digest = hashlib.sha256((tmp_path / "c.json").read_bytes()).hexdigest()
    assert all(row.meta["files"] == {str(tmp_path / "c.json"): digest} for row in rows)
    calibrated(tmp_path / "c.json", " so")
    with pytest.raises(DataError, match=r"another content of .*c.json"):
        run(spec, path, script=certain)


def test_files_are_found_in_the_parameters_of_inner_policies(tmp_path):
    file = tmp_path / "v.npz"
    file.write_bytes(b"v")
    inner = {"policy": "steered", "parameters": {"direction": str(file)}, "also": ["x", 3, None, str(tmp_path)]}
    assert parameter_files(inner) == {str(file): hashlib.sha256(b"v").hexdigest()}
    assert parameter_files({"suffix": "\0", "stop": ["a" * 5000]}) == {}


def test_the_module_of_a_scorer_and_the_files_of_a_model_have_digests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text("one = 1")
    assert module_digest("judges:one") == hashlib.sha256(b"one = 1").hexdigest()
    assert [module_digest(name) for name in ("steps", None, "nowhere.at:all")] == [None] * 3
    for name, content in (("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "1")):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(content)
    first = model_digest("model")
    assert first == model_digest("vllm:model") == model_digest(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").write_text("2")
    assert model_digest("model") != first
    assert [model_digest(name) for name in ("org/name", "http://host:1/v1#name")] == [None, None]


@pytest.mark.parametrize(
    ("spec", "lacks"),
    [("short_mk:k=2,m=1", "abort at once"), ("best_of_n:samples=2", "needs a scorer")],
    ids=["capability", "scorer"],
)
def test_what_cannot_work_is_refused_before_the_first_question(tmp_path, spec, lacks):
    with pytest.raises(LaunchError, match=lacks):
        run(spec, tmp_path / "f", capabilities=[Capability.PREFIX, Capability.STOP])
    assert not (tmp_path / "f").exists()


def test_questions_at_once_leave_room_for_all_branches_of_each():
    engine = ScriptedEngine(says, slots=16)
    assert [at_once(parse_choice(spec), engine) for spec in ("plain", "short_mk:k=8,m=1", "self_consistency")] == [
        16,
        2,
        1,
    ]


def test_parameters_survive_json(tmp_path):
    spec = 'answer_consistency:at=["so"],suffix="",probe_tokens=2,max_probes=null'
    path = tmp_path / "f"
    run(spec, path)
    written = json.loads(path.read_text().splitlines()[0])["meta"]
    assert written["parameters"] == {"at": ["so"], "suffix": "", "probe_tokens": 2, "max_probes": None}
    assert run(spec, path)[1].emitted == 0
