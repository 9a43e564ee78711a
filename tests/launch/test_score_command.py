"""`laconic score` as a user runs it: JSON for programs, tables for people, a picture."""

import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from laconic.launch.score_command import ScoreOptions, choose, score
from laconic.rewards import Batch, Group
from laconic.rewards.advantages import grpo
from laconic.rewards.errors import RecipeError
from laconic.rewards.registry import build

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = (
    {"p": ([True, True, False, False], [800, 2400, 300, 5000]), "q": ([False, False, False, True], [90, 80, 70, 60])},
    {"p": ([True, False, True, True], [700, 900, 1300, 900]), "q": ([False, False, False, False], [10, 20, 30, 40])},
)


def laconic(*arguments, cwd):
    command = [sys.executable, "-m", "laconic.launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def folder(tmp_path):
    """Where rollouts.jsonl lies: two prompts in two steps, rows of the prompts taking turns."""
    rows = [
        {"prompt_id": prompt, "correct": correct[at], "length": lengths[at], "step": step, "finished": True}
        for step, groups in enumerate(STEPS)
        for at in range(4)
        for prompt, (correct, lengths) in groups.items()
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def by_hand(name, **parameters):
    """Rewards and advantages of the file's rows, from the reward itself."""
    scorer, rewards, advantages = build(name, parameters), [], []
    for groups in STEPS:
        batch = Batch.of(*(Group.of(c, lengths, problem_id=prompt) for prompt, (c, lengths) in groups.items()))
        values = scorer(batch)
        for into, one in ((rewards, values), (advantages, grpo(batch, values))):
            into += np.stack(batch.split(one), axis=1).ravel().tolist()
    return rewards, advantages


def test_json_is_what_the_rewards_say_to_the_last_digit(folder):
    names = {"hapo": {"length_weight": 0.5}, "efficient_reasoning": {}, "shorter_better": {"length_weight": 1e-6}}
    sets = ["--set", "hapo.length_weight=0.5", "--set", "shorter_better.length_weight=1e-6"]
    done = laconic("score", ",".join(names), "rollouts.jsonl", *sets, "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {name: by_hand(name, **parameters) for name, parameters in names.items()}
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert found == [
        {
            "prompt_id": row["prompt_id"],
            "rewards": {name: rewards[at] for name, (rewards, _) in expected.items()},
            "advantages": {name: advantages[at] for name, (_, advantages) in expected.items()},
        }
        for at, row in enumerate(rows)
    ]


def test_memory_goes_from_step_to_step(folder):
    rewards, _ = by_hand("hapo")
    # Step 0 knows no history; in step 1 the shortest right answer of p is 800.
    assert rewards[:8:2] == [1.0, 1.0, 0.0, 0.0]
    assert rewards[8] == pytest.approx(1 + np.cos(np.pi / 2 * 700 / 800))
    done = laconic("score", "hapo", "rollouts.jsonl", "--json", cwd=folder)
    assert [json.loads(line)["rewards"]["hapo"] for line in done.stdout.splitlines()] == rewards


def test_a_sequence_that_the_authors_code_scored(folder):
    (case,) = json.loads((GOLDEN / "length_rewards.json").read_text())["hapo_sequence"]
    rows = [
        {"prompt_id": "p", "step": step, **rollout}
        for step, rollouts in enumerate(case["inputs"]["steps"])
        for rollout in rollouts
    ]
    (folder / "sequence.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = laconic("score", "hapo", "sequence.jsonl", "--json", "--set", "hapo.shape=cosine", cwd=folder)
    found = [json.loads(line)["rewards"]["hapo"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(found, [value for step in case["expected"] for value in step["rewards"]], atol=1e-8)


def test_abstentions_are_null(folder):
    rows = [{"prompt_id": 3, "correct": True, "length": 10, "judgement": given} for given in (9, None)]
    (folder / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = laconic("score", "concise_rl", "judged.jsonl", "--json", cwd=folder)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"prompt_id": 3, "rewards": {"concise_rl": 0.9}, "advantages": {"concise_rl": 0.0}},
        {"prompt_id": 3, "rewards": {"concise_rl": None}, "advantages": {"concise_rl": 0.0}},
    ]


def test_tables_for_people(folder):
    done = laconic("score", "shorter_better,accuracy", "rollouts.jsonl", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    blocks = done.stdout.split("\n\n")
    title, header, *lines = blocks[0].splitlines()
    assert title == "prompt p, step 0"
    assert header.split() == ["line", "verdict", "length", "shorter_better", "adv.", "accuracy", "adv."]
    assert [line.split()[:4] for line in lines] == [
        ["1", "right", "800", "2"],
        ["3", "right", "2400", "0.4"],
        ["5", "wrong", "300", "-0.5"],
        ["7", "wrong", "5000", "-4.2"],
    ]
    assert "16 rollouts in 4 groups, 2 steps" in done.stdout
    said = " ".join(done.stdout.split())
    # 4 + 3 + 3 pairs of wrong and right; in p's first step none, in the second 900 (-0.2) is below 1300 (1.4).
    assert "wrong above right never, in 10 pairs of one group" in said
    assert "no signal 1 of 4 groups (25 %)" in said  # accuracy; q of step 1


def test_properties_as_json(folder):
    done = laconic("score", "kimi_length", "rollouts.jsonl", "--json", "--properties-json", "out.json", cwd=folder)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 16
    (found,) = json.loads((folder / "out.json").read_text())
    assert (found["reward"], found["rollouts"], found["groups"], found["steps"]) == ("kimi_length", 16, 4, 2)
    assert found["pairs"] == 10
    assert set(found["spearman"]) == {"right", "wrong", "all"}


def pixels(path):
    """Width, height and the decompressed bytes of a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        packed += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return *struct.unpack(">II", data[16:24]), zlib.decompress(packed)


def test_side_by_side_with_a_picture(folder):
    names = ["efficient_reasoning", "hapo", "kimi_length"]
    done = laconic("score", ",".join(names), "rollouts.jsonl", "--compare", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[2:]] == names
    assert done.stdout.endswith("picture: rollouts_rewards.png\n")
    width, height, drawn = pixels(folder / "rollouts_rewards.png")
    assert width > 2 * height
    assert len(set(zip(drawn[::3], drawn[1::3], strict=False))) > 20
    again = laconic("score", ",".join(names), "rollouts.jsonl", "--compare", "--png", "again.png", cwd=folder)
    assert again.stdout.endswith("picture: again.png\n")
    assert (folder / "again.png").read_bytes() == (folder / "rollouts_rewards.png").read_bytes()
    one = laconic("score", "accuracy", "rollouts.jsonl", "--json", "--png", "one.png", cwd=folder)
    assert len([json.loads(line) for line in one.stdout.splitlines()]) == 16
    assert "picture: one.png" in one.stderr
    assert pixels(folder / "one.png")[0] < width


def test_a_terminal_of_eighty_columns_is_wide_enough(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = "self_rewarded_efficiency,efficient_reasoning,shorter_better,hapo,kimi_length"
    for compare in (False, True):
        out = Console(highlight=False, soft_wrap=True, width=80)
        score(ScoreOptions(names, folder / "rollouts.jsonl", compare=compare), out)
        lines = capsys.readouterr().out.replace(str(folder), "").splitlines()
        assert max(map(len, lines)) <= 80
        assert sum("self_rewarded_efficiency" in line for line in lines) >= 1


def test_long_files_are_cut_short(folder):
    rows = [{"prompt_id": at // 20, "correct": True, "length": 10} for at in range(140)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = laconic("score", "accuracy", "long.jsonl", cwd=folder)
    assert done.stdout.count("... 4 more rollouts of this prompt") == 5
    assert "... 2 more prompts; --all shows them" in done.stdout
    (folder / "six.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["prompt_id"] < 6))
    assert "... 1 more prompt; --all shows it" in laconic("score", "accuracy", "six.jsonl", cwd=folder).stdout
    done = laconic("score", "accuracy", "long.jsonl", "--all", cwd=folder)
    assert len(re.findall(r"^ *\d+  right ", done.stdout, re.MULTILINE)) == 140
    assert "more" not in done.stdout


def test_progress_reaches_schedules(folder):
    rows = [{"prompt_id": "p", "correct": True, "length": 10, "mode": mode} for mode in ("think", "think", "no_think")]
    (folder / "modes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    group = Group.of([True] * 3, [10] * 3, mode=["think", "think", "no_think"])
    at_first = build("arm")(group)
    done = laconic("score", "arm", "modes.jsonl", "--json", cwd=folder)
    assert [json.loads(line)["rewards"]["arm"] for line in done.stdout.splitlines()] == at_first.tolist()
    late = laconic("score", "arm", "modes.jsonl", "--json", "--step", 90, "--total-steps", 100, cwd=folder)
    later = [json.loads(line)["rewards"]["arm"] for line in late.stdout.splitlines()]
    assert max(later) - min(later) < np.ptp(at_first) / 2


def test_advantages_of_the_paper(folder):
    done = laconic("score", "dler", "rollouts.jsonl", "--json", "--advantages", "paper", cwd=folder)
    plain = laconic("score", "dler", "rollouts.jsonl", "--json", cwd=folder)
    papers, ours = (
        [json.loads(line)["advantages"]["dler"] for line in run.stdout.splitlines()] for run in (done, plain)
    )
    assert ours == by_hand("dler")[1]
    assert papers != ours


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shorterbetter", "rollouts.jsonl"], "did you mean shorter_better?"),
        (["hapo", "none.jsonl"], "no such file"),
        (["mash", "rollouts.jsonl"], "rollouts.jsonl:1: no 'searches'"),
        (["hapo,hapo", "rollouts.jsonl"], "named once"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.length_wieght=1"], "did you mean length_weight?"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.length_weight=2"], "between 0 and 1"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.length_weight=high"], "between 0 and 1"),
        (["hapo", "rollouts.jsonl", "--set", "weight=1"], "NAME.param=value"),
        (["hapo", "rollouts.jsonl", "--set", "hpo.weight=1"], "did you mean hapo?"),
        (["hapo", "rollouts.jsonl", "--advantages", "papr"], "did you mean paper?"),
        (["hapo", "rollouts.jsonl", "--judge", "nowhere:judge"], "nowhere"),
        (["hapo", "rollouts.jsonl", "--step", "3"], "steps of their own"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.length_weight=none"], "between 0 and 1"),
        (["hapo", "rollouts.jsonl", "--set", "weight=1"], "for example --set hapo.shape=cosine"),
        (["accuracy", "rollouts.jsonl", "--set", "weight=1"], "accuracy has no parameters"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.warmup.steps=3"], "'warmup' is a key of a recipe's entry"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.weight=3"], "'weight' is a key of a recipe's entry"),
        (["hapo", "rollouts.jsonl", "--set", "hapo.shape=linear", "--set", "hapo.shape=cosine"], "is set twice"),
        (["", "rollouts.jsonl"], "no reward is named"),
        (["hapo", "rollouts.jsonl", "--judge", "json:dumps"], "hapo asks no judge"),
        (["hapo", "."], "is a folder"),
        (["hapo", "none.jsonl", "--png", "nowhere/x.png"], "the folder nowhere does not exist"),
        (["hapo", "none.jsonl", "--properties-json", "nowhere/x.json"], "the folder nowhere does not exist"),
        (["hapo", "none.jsonl", "--compare", "--png", "."], "name a file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_two(folder, arguments, words):
    done = laconic("score", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_two_names_may_be_meant():
    with pytest.raises(RecipeError, match=r"did you mean l1_(exact or l1_max|max or l1_exact)\?"):
        choose("l1_exact,l1_max", ["l1_mxact.slope=1"])


def test_parameters_of_rewards_of_other_packages_can_be_set(folder):
    text = """
import numpy as np
from laconic.rewards import Group
from laconic.rewards.registry import NonNegative, reward


@reward(paper="-")
def per_token_price(group: Group, *, price: NonNegative = 0.5) -> np.ndarray:
    return -price * group.length
"""
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "prices.py").write_text(text)
    command = "import sys; sys.path.insert(0, ''); from laconic.launch.cli import main; main()"
    name = "my_package.prices:per_token_price"
    arguments = ["score", name, "rollouts.jsonl", "--json", "--set", f"{name}.price=2"]
    run = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[0])["rewards"] == {name: -1600.0}


def test_standard_input_is_read(folder):
    content = (folder / "rollouts.jsonl").read_text()
    for place in ("-", "/dev/stdin"):
        command = [sys.executable, "-m", "laconic.launch.cli", "score", "accuracy", place]
        run = subprocess.run(command, input=content, capture_output=True, text=True, cwd=folder)
        assert "16 rollouts in 4 groups, 2 steps" in run.stdout, run.stderr
    command = [sys.executable, "-m", "laconic.launch.cli", "score", "hapo", "-"]
    run = subprocess.run(command, input="[1]\n", capture_output=True, text=True, cwd=folder)
    assert (run.returncode, run.stdout) == (2, "")
    assert "stdin:1: list instead of an object" in run.stderr


def test_progress_that_nobody_looks_at_is_said(folder):
    rows = [{"prompt_id": "p", "correct": True, "length": 10, "mode": mode} for mode in ("think", "think", "no_think")]
    (folder / "modes.jsonl").write_text("".join(json.dumps(row | {"finished": True}) + "\n" for row in rows))
    options = ("--json", "--step", 90, "--total-steps", 100)
    notes = laconic("score", "accuracy", "modes.jsonl", *options, cwd=folder).stderr.splitlines()
    assert notes == ["note: --step and --total-steps: no reward here depends on the progress of training"]
    assert "progress" not in laconic("score", "accuracy,arm", "modes.jsonl", *options, cwd=folder).stderr
    assert "progress" not in laconic("score", "accuracy", "modes.jsonl", "--json", cwd=folder).stderr


def test_what_was_not_tried_is_said(folder):
    rows = [{"prompt_id": "p", "correct": at == 0, "length": 10 + at, "finished": True} for at in range(2000)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = laconic("score", "shorter_better", "long.jsonl", cwd=folder).stdout
    assert "yes, 64 of 64 wrong rollouts (from 1,999) tried; mean change" in " ".join(said.split())
    said = laconic("score", "shorter_better", "long.jsonl", "--compare", cwd=folder).stdout
    assert "shorter_better: moves wrong is from 64 of 1,999 wrong rollouts" in said
    said = laconic("score", "accuracy", "long.jsonl", cwd=folder).stdout
    assert "no: 1,999 wrong rollouts tried at twice and at half their length" in " ".join(said.split())


def test_values_are_yaml():
    (chosen,) = choose("hapo", ["hapo.length_weight=1e-1", "hapo.shape=linear"])
    assert chosen.parameters == {"length_weight": 0.1, "shape": "linear"}
    assert [item.name for item in choose("hapo, accuracy", [])] == ["hapo", "accuracy"]
    with pytest.raises(RecipeError):
        choose(" , ", [])


@pytest.mark.parametrize("nothing", ["none", "None", "null", "~"])
def test_nothing_is_null_where_a_parameter_may_be_null(nothing):
    (chosen,) = choose("cosine", [f"cosine.exceed={nothing}"])
    assert chosen.parameters == {"exceed": None}


def test_what_is_taken_by_default_is_said_beside_the_json(folder):
    (folder / "plain.jsonl").write_text('{"prompt_id": 1, "correct": true, "length": 1000}\n')
    done = laconic("score", "l1_exact,dler", "plain.jsonl", "--json", cwd=folder)
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert found["rewards"] == {"l1_exact": pytest.approx(1 - 3e-4 * 24), "dler": 1.0}
    (note,) = done.stderr.splitlines()
    assert note.startswith("note: l1_exact also reads budget; dler also reads finished: ")


def test_history_is_explained(folder):
    said = " ".join(laconic("score", "--help", cwd=folder).stdout.split())
    assert "rows with a step" in said
    said = " ".join(laconic("list", "rewards", "hapo", cwd=folder).stdout.split())
    assert "rows with a `step` are scored in that order, see `laconic score --help`" in said


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_judge_is_asked(folder, kind):
    text = f"{kind} verdict(row):\n    return row['length'] // 100 if row['length'] < 900 else 'long'\n"
    (folder / "my_judge.py").write_text(text)
    rows = [{"prompt_id": "p", "correct": True, "length": length, "finished": True} for length in (800, 200, 900)]
    (folder / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = "import sys; sys.path.insert(0, ''); from laconic.launch.cli import app; app()"
    arguments = ["score", "concise_rl", "plain.jsonl", "--json", "--judge", "my_judge:verdict"]
    run = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, cwd=folder)
    assert [json.loads(line)["rewards"]["concise_rl"] for line in run.stdout.splitlines()] == [0.8, 0.2, None]
    (note,) = run.stderr.splitlines()
    assert note.startswith("note: 1 of 3 verdicts of the judge cannot be read")
    assert "'long' for plain.jsonl:3" in note
