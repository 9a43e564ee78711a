"""A report folder from run folders: what it is made of, what it shows, and that nothing in it runs or loads."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from laconic.eval.examples import SHOWN, choose, shot
from laconic.eval.gather import gather
from laconic.eval.page import duration
from laconic.eval.plots import smooth, training_curves
from laconic.eval.report import main, write_report
from laconic.eval.theme import LIGHT
from laconic.rewards.errors import DataError
from laconic.rewards.records import Rollout

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory, make):
    run = tmp_path_factory.mktemp("runs") / "demo"
    problems = make.problems(40)
    models = make.models(problems)
    first = {problems[0].id, problems[1].id}
    models["grpo"] = [
        replace(row, text=f"<think> {HOSTILE} </think> {HOSTILE}", tokens=200, think_tokens=198)
        if row.problem_id in first
        else row
        for row in models["grpo"]
    ]
    problems[0] = replace(problems[0], prompt=f"{problems[0].prompt} {HOSTILE}")
    make.run(run, problems, models)
    return write_report(run)


def test_files(report):
    names = {path.name for path in report.iterdir()}
    pictures = (
        "accuracy_tokens",
        "accuracy_budget",
        "lengths",
        "problems",
        "training_sft",
        "training_dpo",
        "training_grpo",
    )
    assert names == {"results.json", "report.md", "report.html"} | {
        f"{p}{s}.png" for p in pictures for s in ("", "_dark")
    }
    for path in report.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(report.parent.glob(".report*"))


def test_results_carry_the_chain_of_stages(report):
    results = json.loads((report / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"sft", "dpo", "grpo"}
    stages = results["provenance"]["stages"]
    assert [stage["name"] for stage in stages] == ["teach", "sft", "dpo", "grpo", "eval"]
    assert all(stage["seconds"] == 83.2 for stage in stages)


def test_markdown_has_headline_table_and_pictures(report):
    text = (report / "report.md").read_text()
    assert "grpo uses" in text
    assert "| model | accuracy, % |" in text
    for name in re.findall(r"\]\((.+?)\)", text):
        assert (report / name).is_file()


def test_html_loads_nothing_and_runs_nothing(report):
    page = Page((report / "report.html").read_text())
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:image/png;base64,") or name not in attributes
    style = re.search(r"<style>(.*?)</style>", (report / "report.html").read_text(), re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_is_shown_as_text(report):
    page = Page((report / "report.html").read_text())
    assert HOSTILE in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == sum(tag == "picture" for tag, _ in page.tags)


def test_html_shows_both_colour_schemes_and_every_model(report):
    text = (report / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    page = Page(text)
    assert sum(tag == "source" for tag, _ in page.tags) == 7
    for words in (
        "Provenance",
        "How to read this",
        "Shortest right",
        "0123abcd",
        "Example CPU",
        "with uncommitted changes",
    ):
        assert words in page.text


def test_a_second_report_replaces_the_first(report):
    stale = report / "stale.txt"
    stale.write_text("old")
    assert write_report(report.parent) == report
    assert not stale.exists()
    assert (report / "report.html").is_file()


def test_command_line(tmp_path, report):
    command = [sys.executable, "-m", "laconic.eval.report"]
    good = subprocess.run([*command, str(report.parent)], capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout.strip()) == (0, str(report / "report.html"))
    bad = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "no such run folder" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_incomplete_and_older_evaluations_are_not_used(tmp_path, make):
    run = tmp_path / "demo"
    problems = make.problems(6)
    for number, digest in enumerate(("11111111", "22222222")):
        folder = make.eval(run, f"04-eval-{digest}", problems, {"sft": make.rollouts(problems)})
        os.utime(folder / "manifest.json", (1000 + number, 1000 + number))
    make.stage(run, "05-eval2-33333333.partial", "eval", complete=False)
    assert [stage.folder.name for stage in gather(run).evaluations] == ["04-eval-22222222"]
    assert [stage.folder.name for stage in gather(run, ["04-eval-11111111"]).evaluations] == ["04-eval-11111111"]
    with pytest.raises(DataError, match="not a complete stage"):
        gather(run, ["05-eval2-33333333.partial"])


def test_a_run_without_evaluation_says_so(tmp_path, make, capsys):
    make.stage(tmp_path / "demo", "01-sft-11111111", "sft")
    assert main([str(tmp_path / "demo")]) == 2
    assert "no complete eval stage" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "report").exists()


def test_two_evaluations_and_a_single_model(tmp_path, make):
    run = tmp_path / "demo"
    for name, tasks in (("04-near-11111111", ("gcd",)), ("05-far-22222222", ("lcm", "gcd"))):
        problems = make.problems(12, tasks=tasks)
        make.eval(run, name, problems, {"sft": make.rollouts(problems)})
    results = json.loads((write_report(run) / "results.json").read_text())
    assert [(row["eval"], row["task"]) for row in results["rows"]] == [
        ("near", "gcd"),
        ("far", "all"),
        ("far", "gcd"),
        ("far", "lcm"),
    ]
    assert set(results["provenance"]["evals"]) == {"near", "far"}
    assert "Nothing was compared" in (run / "report" / "report.md").read_text()


def test_examples_are_the_extremes_they_are_called(make):
    problems = make.problems(80)
    models = make.models(problems)
    examples = choose(problems, models, baseline="sft", model="grpo", samples=4)
    assert len({example.problem.id for example in examples}) == len(examples) >= 4

    def mean(name, problem_id, what):
        return np.mean([what(row) for row in models[name] if row.problem_id == problem_id])

    def gain(problem_id):
        return mean("grpo", problem_id, lambda r: r.correct) - mean("sft", problem_id, lambda r: r.correct)

    by_title = {example.title: example for example in examples}
    assert gain(by_title["Largest gain of accuracy by grpo"].problem.id) == max(gain(p.id) for p in problems)
    assert gain(by_title["Largest loss of accuracy by grpo"].problem.id) == min(gain(p.id) for p in problems)
    saved = by_title["Most tokens saved by grpo, both always right"]
    assert [summary.right for summary in saved.summaries if summary.model != "dpo"] == [4, 4]


def test_lines_hold_shortest_and_longest_right_and_wrong(make):
    problems = make.problems(30)
    models = make.models(problems)
    for example in choose(problems, models, baseline="sft", model="grpo", samples=4):
        for line in example.lines:
            pick = min if line.label.startswith("Shortest") else max
            for name, shown in zip(models, line.shots, strict=True):
                mine = [
                    row.tokens
                    for row in models[name]
                    if row.problem_id == example.problem.id and row.correct == line.label.endswith("right")
                ]
                needed = 1 if line.label.startswith("Shortest") else 2
                assert (shown is None) == (len(mine) < needed)
                assert shown is None or shown.rollout.tokens == pick(mine)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think> 3 + 4 = 7 </think> 7", "3 + 4 = 7", "7"),
        ("3 + 4 = 7 </think> 7", "3 + 4 = 7", "7"),  # the chat template opened the thinking
        ("<think> </think> 7", "", "7"),
        ("<think> 3 + 4", "3 + 4", ""),
        ("7", "", "7"),
    ],
)
def test_thinking_and_answer_are_told_apart(text, thinking, answer):
    shown = shot(Rollout("p", 0, "t", text, None, False, True, 5, 3, 2))
    assert (shown.thinking, shown.answer) == (thinking, answer)


def test_long_thinking_keeps_both_ends_and_says_what_is_missing():
    thinking = "a" * SHOWN + "b" * SHOWN
    shown = shot(Rollout("p", 0, "t", f"<think> {thinking} </think> 7", "7", True, True, 5, 3, 2))
    assert shown.omitted == SHOWN
    assert shown.thinking.startswith("a" * (SHOWN // 2) + "\n")
    assert shown.thinking.endswith("\n" + "b" * (SHOWN // 2))


def test_the_course_of_search_agents_shows_their_searches():
    rows = [{"step": step, "reward": 0.1 * step, "raw/tokens": 50.0} for step in range(5)]
    searching = [row | {"raw/searches": 2.0 - 0.3 * row["step"]} for row in rows]
    two, three = (imread(io.BytesIO(training_curves("grpo", each, LIGHT))).shape for each in (rows, searching))
    # One panel more above the same axis.
    assert two[1] == three[1]
    assert three[0] / two[0] == pytest.approx(4.6 / 3.3, abs=0.05)


def test_smoothing_keeps_a_constant_and_the_mean_of_its_window():
    np.testing.assert_allclose(smooth([3.0] * 50), 3.0)
    values = np.random.default_rng(0).random(100)
    np.testing.assert_allclose(smooth(values)[50], values[45:56].mean())
    np.testing.assert_allclose(smooth(values)[0], values[:6].mean())


def test_durations():
    assert [duration(s) for s in (None, 12.2, 200, 3900)] == ["–", "12 s", "3 min 20 s", "1 h 05 min"]
