"""`laconic calibrate`: what it records, chooses, checks, writes and refuses, and the policy that the artefact is."""

import asyncio
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.inference.calibration import Calibration
from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.opening import Opened
from laconic.inference.policies import run_policy
from laconic.inference.policies.choose import parse_choice
from laconic.inference.recording import digest, read_recordings
from laconic.launch import ask_command, calibrate_command
from laconic.launch.cli import app
from laconic.rewards.errors import DataError, LaunchError, RecipeError

ROOT = Path(__file__).parents[2]
N = 200
THINKING = ["<think>", "a", "Wait", "b", "b", "b", "</think>", "5"]
FULL, STOPPED, PROBE = 9, 6, 3
"""Tokens of the whole trace with its end, of a stopped run, and of the probe alone."""
RULE = "confidence_probe:probe_tokens=4,probe_stop=['}']"
TARGET = "accuracy drop <= 5 points at 95 %"


def sure(k):
    """The probe's confidence: every question has another."""
    return (k + 1) / (N + 1)


def wrong(k):
    """The probe's answer is wrong; the full run's never is."""
    return k < 0.3 * N


def script(context):
    k = int(context.prompt)
    if context.role != "probe":
        return [*THINKING[sum(context.generated.values()) :], EOS]
    return [Token(text, logprob=math.log(sure(k))) for text in ("{", "4" if wrong(k) else "5", "}")]


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """Problems in a file, and a scripted engine for every model that is opened."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"q{k}", "prompt": str(k), "answer": "5"} for k in range(N)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened = []

    def open_scripted(model, **_):
        opened.append(ScriptedEngine(script))
        return Opened(opened[-1], model)

    monkeypatch.setattr(calibrate_command, "open_model", open_scripted)
    return opened


def calibrate(*arguments):
    """What is printed."""
    done = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


RECORD = ("tiny", RULE, "--problems", "problems.jsonl", "--max-tokens", 40)


def most_losses(n, limit, level):
    """As many losses of n show a true share of at most `limit`; by the binomial distribution itself."""

    def chance(k):
        return sum(math.comb(n, j) * limit**j * (1 - limit) ** (n - j) for j in range(k + 1))

    return max(k for k in range(n) if chance(k) <= level)


def test_the_threshold_is_the_boldest_that_the_binomial_distribution_allows(engines):
    printed = calibrate(*RECORD, "--target", TARGET, "--bound", "clopper_pearson", "--held-out", 0.25)
    made = Calibration.load("calibration.json", policy="confidence_probe", model="tiny")
    recorded = read_recordings("calibration.recordings.jsonl")
    assert sum(item.tokens + item.probes for item in recorded) == N * (FULL + PROBE) == engines[0].emitted

    stops = [k for k in range(N) if sure(k) >= made.threshold]
    apart = {f"q{k}" for k in range(N)} - {item.id for item in calibrate_command.split(recorded, share=0.25)[0]}
    seen = [k for k in stops if f"q{k}" not in apart]
    held_out = [k for k in stops if f"q{k}" in apart]
    n = N - len(apart)
    # Of the first look: all looks together have 5 %.
    allowed = most_losses(n, 0.05, 0.025)
    assert 0 < sum(map(wrong, seen)) == allowed == round(made.seen.loss * n)
    # The next question on the calibration side would be one loss too many.
    assert wrong(max(k for k in range(N) if k not in stops and f"q{k}" not in apart))

    sides = ((len(seen), n, made.seen), (len(held_out), len(apart), made.held_out))
    for stopped, size, check in sides:
        assert check.tokens == pytest.approx((STOPPED * stopped + (FULL + PROBE) * (size - stopped)) / size)
        assert (check.questions, check.baseline_tokens) == (size, FULL)
        assert check.saving == pytest.approx(1 - check.tokens / FULL)
    assert made.held_out.loss == sum(map(wrong, held_out)) / len(apart)
    assert (made.held_out.baseline_accuracy, made.held_out.accuracy) == (1.0, pytest.approx(1 - made.held_out.loss))
    assert made.provenance["sampling"]["max_tokens"] == 40
    assert made.settings["answer_by"] == "probe"
    assert f"{100 * made.held_out.saving:.1f} %" in printed
    assert f"On {len(apart)} held-out questions the loss was" in printed
    assert "Look 1 at these recordings: tested at a level of 2.5 %" in printed
    assert "- at most (97.5 %)" in printed


def test_the_artefact_is_a_policy_that_does_what_was_replayed(engines):
    calibrate(*RECORD, "--target", TARGET, "--held-out", 0)
    made = Calibration.load("calibration.json")
    assert made.held_out is None
    policy = parse_choice("calibrated:calibration.json").build()

    async def ask_all():
        opened = Opened(ScriptedEngine(script), "tiny")
        asks = [opened.ask(str(k), sampling=Sampling(max_tokens=40)) for k in range(N)]
        return await asyncio.gather(*(run_policy(policy, ask) for ask in asks))

    answers = asyncio.run(ask_all())
    assert sum(answer.ledger.generated for answer in answers) == pytest.approx(N * made.seen.tokens)
    assert sum(answer.answer != "5" for answer in answers) == round(N * made.seen.loss)
    assert answers[0].notes["calibration"]["differs"] == []
    assert {answer.finish for answer in answers} == {"stop", "policy_stop"}


def test_what_differs_from_the_calibration_is_named(engines):
    calibrate(*RECORD, "--target", TARGET)
    policy = parse_choice("calibrated:calibration.json").build()
    same = Sampling(max_tokens=40)
    assert policy.misfits(model="tiny", sampling=same) == ()
    assert policy.misfits(model="tiny", sampling=Sampling(max_tokens=41)) == ("max_tokens 41, calibrated with 40",)
    assert policy.misfits(model="other", sampling=same) == ("model other, calibrated with tiny",)


def test_a_damaged_artefact_is_refused_where_the_policy_is_chosen(engines, tmp_path):
    calibrate(*RECORD, "--target", TARGET)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace('"threshold": 0.', '"threshold": 0.1'))
    with pytest.raises(DataError, match="edited"):
        parse_choice("calibrated:calibration.json")
    with pytest.raises(DataError, match="no such file"):
        parse_choice("calibrated:nowhere.json")


def test_recordings_are_calibrated_again_without_a_model(engines):
    calibrate(*RECORD, "--target", TARGET)
    first = Calibration.load("calibration.json")
    calibrate("--from-recordings", "calibration.recordings.jsonl", "--target", TARGET, "--out", "again.json")
    assert Calibration.load("again.json") == first
    looser = "accuracy drop <= 15 points at 95 %"
    calibrate("--from-recordings", "calibration.recordings.jsonl", "--target", looser, "--out", "looser.json")
    assert Calibration.load("looser.json").seen.saving > first.seen.saving
    assert len(engines) == 1


def test_looks_are_counted_beside_the_recordings(engines):
    tight = "accuracy drop <= 1 point at 95 %"
    for limit in (50, 100, 100):
        with pytest.raises(DataError, match="no threshold is shown"):
            calibrate(*RECORD, "--target", tight, "--limit", limit)
    printed = calibrate(*RECORD, "--target", TARGET)  # the same look again was none
    assert "Look 3 at these recordings: tested at a level of 0.417 %" in printed
    made = Calibration.load("calibration.json")
    assert (made.provenance["look"], made.provenance["level"]) == (3, pytest.approx(0.05 / 12))
    looks = [json.loads(line) for line in Path("calibration.recordings.looks.jsonl").read_text().splitlines()]
    sizes = [
        len(calibrate_command.split(read_recordings("calibration.recordings.jsonl")[:n], share=0.3)[0])
        for n in (50, 100, N)
    ]
    assert [look["questions"] for look in looks] == sizes
    assert [(look["target"], look["bound"], look["held_out"]) for look in looks] == [
        (tight, "hoeffding_bentkus", "0.3"),
        (tight, "hoeffding_bentkus", "0.3"),
        (TARGET, "hoeffding_bentkus", "0.3"),
    ]


@pytest.mark.parametrize("changed", [{"model": "other"}, {"policy": "es_cot"}, {"sampling": {"max_tokens": 9}}])
def test_recordings_of_something_else_confirm_nothing(engines, tmp_path, changed):
    rows = (tmp_path / "problems.jsonl").read_text().splitlines(keepends=True)
    for name, some in (("some", rows[::2]), ("others", rows[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(some))
        calibrate(
            "tiny",
            RULE,
            "--problems",
            f"{name}.jsonl",
            "--max-tokens",
            40,
            "--recordings",
            f"{name}.r.jsonl",
            "--thresholds",
            0.5,
        )
    arguments = ("--from-recordings", "some.r.jsonl", "--held-out", "others.r.jsonl", "--target", TARGET)
    calibrate(*arguments)
    assert Calibration.load("calibration.json").held_out.questions == 100
    path = tmp_path / "others.r.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    about = {"about": {**json.loads(first)["about"], **changed}}
    path.write_text(json.dumps(about) + "\n" + "".join(rest))
    with pytest.raises(DataError, match=f"recorded with .{next(iter(changed))!r}".replace("'", '"')):
        calibrate(*arguments)
    path.write_text("".join(rest))
    with pytest.raises(DataError, match="does not say what was recorded"):
        calibrate(*arguments)


def test_recordings_that_were_cut_are_no_sample(engines, tmp_path):
    calibrate(*RECORD, "--thresholds", 0.5, "--limit", 90)
    path = tmp_path / "calibration.recordings.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:60]))
    with pytest.raises(DataError, match=r"32 of 90 runs are missing.*short runs end first") as refusal:
        calibrate("--from-recordings", path, "--target", TARGET)
    assert "goes on where it was cut" in refusal.value.cure


def test_the_same_question_under_another_id_is_not_held_out(engines, tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    others = [{**row, "id": f"other {row['id']}"} for row in rows]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    with pytest.raises(DataError, match="held out and calibrated on"):
        calibrate(*RECORD, "--target", TARGET, "--held-out", "others.jsonl")
    assert engines == []


def test_what_if_says_what_thresholds_would_have_done(engines):
    calibrate(*RECORD, "--target", TARGET)
    printed = calibrate("--from-recordings", "calibration.recordings.jsonl", "--thresholds", "0.1,0.5")
    for threshold in (0.1, 0.5):
        stopped = [k for k in range(N) if sure(k) >= threshold]
        tokens = (STOPPED * len(stopped) + (FULL + PROBE) * (N - len(stopped))) / N
        line = next(line.split() for line in printed.splitlines() if line.strip().startswith(f"{threshold}"))
        lost = sum(map(wrong, stopped)) / N
        shown = (100 - 100 * lost, 100 * lost, 100 * lost, tokens, 100 - 100 * tokens / FULL, 100 * len(stopped) / N)
        assert line[1:] == [f"{value:.1f}" for value in shown]


def test_recordings_without_a_checkpoint_are_said_to_be_that(engines):
    asked = ("tiny", "confidence_probe:at=['never said'],probe_tokens=4", *RECORD[2:], "--limit", 20)
    for wanted in (("--thresholds", "0.5"), ("--target", TARGET)):
        with pytest.raises(DataError, match=r"none of 20 runs reached a checkpoint: .*never said"):
            calibrate(*asked, *wanted)


def test_the_next_command_is_named_with_the_recordings(engines):
    printed = calibrate(*RECORD, "--thresholds", "0.5")
    assert "recordings: calibration.recordings.jsonl\n" in printed
    [command] = re.findall(r"laconic (calibrate --from-recordings .*)", printed)
    with pytest.raises(DataError, match="no threshold is shown"):
        calibrate(*shlex.split(command)[1:])


def test_a_target_out_of_reach_is_refused_with_the_number_of_questions(engines):
    with pytest.raises(DataError) as refusal:
        calibrate(*RECORD, "--target", "accuracy drop <= 1 point at 95 %", "--limit", 100)
    # Without a loss it takes ln(level) / ln(0.99) questions; the second look has a sixth of 5 %, and 30 % are held out.
    questions = math.ceil(math.log(0.05 / 6) / math.log(0.99))
    assert f"about {questions} questions would be needed in look 2" in str(refusal.value)
    assert f"--limit {math.ceil(questions / 0.7)} " in str(refusal.value)
    assert not os.path.exists("calibration.json")
    assert len(read_recordings("calibration.recordings.jsonl")) == 100


def test_more_questions_go_on_from_those_that_are_there(engines, tmp_path):
    calibrate(*RECORD, "--thresholds", "0.5", "--limit", 60)
    path = tmp_path / "calibration.recordings.jsonl"
    path.write_text(path.read_text()[:-30])  # as a kill leaves it
    calibrate(*RECORD, "--target", TARGET)
    assert engines[1].emitted == (N - 59) * (FULL + PROBE)
    calibrate(*RECORD, "--target", TARGET, "--out", "whole.json")
    assert digest(read_recordings(path)) == digest(read_recordings("whole.recordings.jsonl"))
    assert Calibration.load("calibration.json").threshold == Calibration.load("whole.json").threshold


@pytest.mark.parametrize(
    "changed", [["--seed", 1], ["--temperature", 0.5], ["--max-tokens", 41]], ids=["seed", "temperature", "max_tokens"]
)
def test_recordings_of_something_else_are_not_added_to(engines, changed):
    calibrate(*RECORD, "--target", TARGET)
    with pytest.raises(DataError, match="recorded with"):
        calibrate(*RECORD, *changed, "--target", TARGET)


def test_another_question_under_the_same_id_is_noticed(engines, tmp_path):
    calibrate(*RECORD, "--target", TARGET)
    path = tmp_path / "problems.jsonl"
    path.write_text(path.read_text().replace('"prompt": "7"', '"prompt": "70"'))
    with pytest.raises(DataError, match="'q7'"):
        calibrate(*RECORD, "--target", TARGET)


def test_held_out_problems_may_be_others(engines, tmp_path):
    rows = (tmp_path / "problems.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(rows[::2]))
    (tmp_path / "others.jsonl").write_text("".join(rows[1::2]))
    arguments = ("tiny", RULE, "--problems", "some.jsonl", "--max-tokens", 40, "--target", TARGET)
    calibrate(*arguments, "--held-out", "others.jsonl")
    made = Calibration.load("calibration.json")
    assert (made.seen.questions, made.held_out.questions) == (100, 100)
    stopped = [k for k in range(1, N, 2) if sure(k) >= made.threshold]
    assert made.held_out.loss == pytest.approx(sum(map(wrong, stopped)) / 100)
    with pytest.raises(DataError, match="held out and calibrated on"):
        calibrate(*arguments, "--held-out", "problems.jsonl")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (RECORD, RecipeError, "nothing to calibrate for"),
        ((*RECORD, "--target", "accuracy drop <= 1 % at 95 %"), RecipeError, "two things"),
        ((*RECORD, "--target", TARGET, "--held-out", "1.5"), RecipeError, "--held-out 1.5"),
        ((*RECORD, "--thresholds", "0.8,high"), RecipeError, "'high' is no number"),
        ((*RECORD, "--target", TARGET, "--bound", "hope"), RecipeError, "unknown bound"),
        ((*RECORD, "--target", TARGET, "--out", "no/such/file.json"), LaunchError, "does not exist"),
        (("tiny", "plain", "--problems", "problems.jsonl", "--target", TARGET), RecipeError, "plain has no threshold"),
        (("tiny", RULE + ",answer_by=model", *RECORD[2:], "--target", TARGET), RecipeError, "cannot be recorded"),
        (("tiny", "--target", TARGET), RecipeError, "are needed"),
        (("--from-recordings", "problems.jsonl", "--target", TARGET), DataError, "not a recording"),
        ((*RECORD, "--from-recordings", "x.jsonl", "--target", TARGET), RecipeError, "decodes nothing"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--limit", 5), RecipeError, "--limit has no effect"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--samples", 2), RecipeError, "--samples has no effect"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--seed", 1), RecipeError, "--seed has no effect"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--temperature", 0.5), RecipeError, "--temperature has"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--max-tokens", 9), RecipeError, "--max-tokens has no"),
        (("--from-recordings", "x.jsonl", "--target", TARGET, "--tokenizer", "t"), RecipeError, "--tokenizer has no"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named_before_anything_is_decoded(engines, arguments, error, says):
    with pytest.raises(error, match=says):
        calibrate(*arguments)
    assert engines == []


def test_a_killed_process_leaves_recordings_that_are_gone_on_from(thinker, tmp_path, monkeypatch):
    """With a model; what a kill leaves is a part of what would have been."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"q{k}", "prompt": f"{k % 10} + {k // 10} =", "answer": str(k)} for k in range(60)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rule = "confidence_probe:every=4,at=[],suffix='',skip=0,probe_tokens=16,probe_temperature=1,max_probes=null"
    arguments = [str(thinker), rule, "--problems", "problems.jsonl", "--max-tokens", "64", "--thresholds", "0.1"]
    command = [sys.executable, "-m", "laconic.launch.cli", "calibrate", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    path = tmp_path / "calibration.recordings.jsonl"
    while process.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.kill()
    process.wait()
    there = read_recordings(path)
    assert there
    with pytest.raises(DataError, match=f"{60 - len(there)} of 60 runs are missing"):
        calibrate("--from-recordings", path, "--thresholds", "0.1")
    calibrate(*arguments)
    calibrate(*arguments, "--out", "whole.json")
    whole = read_recordings("whole.recordings.jsonl")
    assert _rounded(there).items() <= _rounded(whole).items()
    assert any(item.checkpoints for item in whole)
    assert _rounded(read_recordings(path)) == _rounded(whole)


def _rounded(recordings):
    """Signals up to the rounding that depends on what was batched together."""
    return {
        item.id: (item.loss, item.tokens, item.probes, [(round(p.signal, 4), p.tokens) for p in item.checkpoints])
        for item in recordings
    }


def adds(context):
    """Sums are right; asked before the end, seven is surest and wrong."""
    total = eval(context.prompt.removesuffix("="))
    if context.role != "probe":
        text = ["<think>", " a", " =", " b", ";", " wait", " b", ";", "</think>", str(total)]
        return [*text[sum(context.generated.values()) :], EOS]
    return [Token("8" if total == 7 else str(total), logprob=-0.01 * abs(total - 7)), EOS]


def test_the_commands_of_the_guide_work(monkeypatch, tmp_path):
    for module in (calibrate_command, ask_command):
        monkeypatch.setattr(module, "open_model", lambda model, **_: Opened(ScriptedEngine(adds), model))
    guide = (ROOT / "docs" / "guides" / "calibrate.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.DOTALL)
    lines = [shlex.split(line.replace("600", "150"))[1:] for block in blocks for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    done = [CliRunner().invoke(app, line) for line in lines]
    refused = lines.index(next(line for line in lines if "accuracy drop <= 1 point at 95 %" in line))
    assert [type(item.exception) if item.exception else None for item in done[:refused]] == [None] * refused
    assert "no threshold is shown" in str(done[refused].exception)
    assert [item.exit_code for item in done[refused + 1 :]] == [0] * (len(done) - refused - 1)
    assert len(done) == 5
