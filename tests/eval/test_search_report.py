"""Searches in `results.json` and in the report: made-up episodes about a world, by models that search differently."""

import json
import random
import re

import pytest
import yaml

from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.world import World
from laconic.eval.episode_parts import parts
from laconic.eval.report import write_report
from laconic.eval.results import build_results
from laconic.eval.search_results import Asked, search_results
from laconic.rewards.jsonl import write_jsonl
from laconic.rewards.records import Rollout

SAMPLES = 4
MOST = 4


@pytest.fixture(scope="module")
def problems():
    return draw_questions(World(seed=0, size=60, taught_share=0.5), "test", 60, seed=1)


def episode(problem, sample, *, searches, chance, rng):
    """An episode with so many searches: first those for the pages, then needless ones."""
    pages = problem.meta["needed_documents"]
    found = [pages[at][0] if at < len(pages) else f"other{at}" for at in range(searches)]
    right = rng.random() < (chance if searches >= len(pages) else 0.1)
    answer = problem.answer if right else "somebody else"
    pieces = [{"kind": "generated", "text": "<think> hm </think>", "tokens": 3}]
    for at, name in enumerate(found):
        pieces += [{"kind": "generated", "text": f"<search> query {at} & <b> </search>", "tokens": 4}]
        pieces += [{"kind": "retrieved", "text": f"<information> text of {name} </information>", "tokens": 20}]
    pieces += [{"kind": "generated", "text": f"<answer> {answer} </answer>", "tokens": 3}]
    told = {
        "searches": [
            {"query": f"query {at} & <b>", "ids": [name], "turn": at, "scores": [1.0], "shown": 1}
            for at, name in enumerate(found)
        ],
        **{"invalid": 0, "refused": 0, "turns": searches + 1, "finish": "answer", "answer": answer, "pieces": pieces},
        **{"retrieved_tokens": 20 * searches, "forced_tokens": 0, "prompt_tokens": 10, "seconds": 0.1 + searches},
    }
    text = "".join(piece["text"] for piece in pieces)
    tokens = 6 + 4 * searches
    counts = {"tokens": tokens, "think_tokens": tokens - 3, "answer_tokens": 3}
    return Rollout(
        problem.id, sample, problem.task, text, answer, right, True, **counts, source="x", meta={"search": told}
    )


def asked(problems, *, needless, skipped, seed):
    """A model that makes needless searches, or leaves out needed ones, so often."""
    rng = random.Random(seed)

    def count(problem):
        least = len(problem.meta["needed_documents"])
        return max(0, min(MOST, least + (rng.random() < needless) - (least > 0 and rng.random() < skipped)))

    keys = [(problem, sample) for problem in problems for sample in range(SAMPLES)]
    counts = [count(problem) for problem, _ in keys]

    def run(most):
        rng = random.Random(seed + 1)
        return [
            episode(problem, sample, searches=min(m, most), chance=0.9, rng=rng)
            for (problem, sample), m in zip(keys, counts, strict=True)
        ]

    return Asked(episodes=run(MOST), closed_book=run(0), budgets={most: run(most) for most in range(4)})


@pytest.fixture(scope="module")
def models(problems):
    return {
        "search_r1": asked(problems, needless=0.9, skipped=0.0, seed=1),
        "mash": asked(problems, needless=0.05, skipped=0.1, seed=2),
    }


@pytest.fixture(scope="module")
def settings(make):
    return make.settings(baseline="search_r1", repetitions=1000)


@pytest.fixture(scope="module")
def run(problems, models, settings, make, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "agents"
    folder = make.stage(run, "01-eval-aaaaaaaa", "eval")
    (folder / "rollouts").mkdir()
    write_jsonl(folder / "problems.jsonl", [problem.to_json() for problem in problems])
    rollouts = {name: one.episodes for name, one in models.items()}
    for name, rows in rollouts.items():
        write_jsonl(folder / "rollouts" / f"{name}.jsonl", [row.to_json() for row in rows])
    results = build_results(problems, rollouts, settings, provenance=make.facts)
    results["search"] = search_results(problems, models, settings, most=MOST, about={"protocol": "mash", "k": 3})
    (folder / "results.json").write_text(json.dumps(results, allow_nan=False))
    (folder / "stage.yaml").write_text(
        yaml.safe_dump({"name": "eval", "kind": "eval", "recipe": "agents", "inputs": {}})
    )
    return write_report(run)


def test_the_results_of_an_evaluation_are_the_reports(run):
    merged = json.loads((run / "results.json").read_text())
    part = merged["search"]
    assert [row["model"] for row in part["rows"]] == ["search_r1", "mash"]
    (pair,) = part["paired"]
    assert (pair["model"], pair["baseline"]) == ("mash", "search_r1")
    first, second = part["rows"]
    assert pair["searches_ratio"] == pytest.approx(second["searches"] / first["searches"])
    assert pair["d_over_search_ci"][1] < 0
    assert first["documents"] == "exact"
    assert part["settings"] == {"protocol": "mash", "k": 3}
    # Held to 0 searches is what the closed book gives here, and 3 is nearly all that is made.
    assert second["held_to"]["0"]["accuracy"] == pytest.approx(second["closed_book"]["closed_book_accuracy"])
    assert second["held_to"]["0"]["searches"] == 0
    assert second["closed_book"]["slope"] > 0.5 > first["closed_book"]["slope"]


def test_markdown_has_every_number_with_its_interval(run):
    text = (run / "report.md").read_text()
    row = json.loads((run / "results.json").read_text())["search"]["rows"][1]
    low, high = (f"{value:.2f}" for value in row["searches_ci"])
    assert f"| {row['searches']:.2f} [{low}, {high}] |" in text
    assert f"{100 * row['under_search']:.1f} [" in text
    for title in ("## Searches", "What is needed:", "What it costs, per question:", "Searches by closed-book accuracy"):
        assert title in text
    assert "right with at most 3, % | right, % | right before the last search, % |" in text
    assert f"{100 * row['early_correct']:.1f} [" in text
    assert "Over- and under-search are exact" in text
    assert "price" not in text  # there are no prices
    for name in ("accuracy_searches", "searches_knowledge"):
        assert f"({name}.png)" in text
        assert (run / f"{name}.png").read_bytes() != (run / f"{name}_dark.png").read_bytes()


def test_the_page_folds_documents_and_escapes_queries(run):
    page = (run / "report.html").read_text()
    assert "<script" not in page
    folds = re.findall(
        r'<details class="retrieved"><summary>(.*?)</summary><pre>(.*?)</pre></details>', page, re.DOTALL
    )
    assert folds
    for title, text in folds:
        name = re.match(r"1 document for “query \d &amp; &lt;b&gt;”: (\S+)", title)[1]
        assert text == f"&lt;information&gt; text of {name} &lt;/information&gt;"
    assert "<pre>&lt;search&gt; query 0 &amp; &lt;b&gt; &lt;/search&gt;</pre>" in page


def test_a_report_without_searches_says_nothing_of_them(make, tmp_path):
    problems = make.problems(20)
    report = write_report(make.run(tmp_path / "demo", problems, make.models(problems)).parent)
    assert "Searches" not in (report / "report.md").read_text()
    assert "<h2>Searches" not in (report / "report.html").read_text()
    assert "search" not in json.loads((report / "results.json").read_text())


def test_an_episode_in_parts(problems):
    row = episode(problems[0], 0, searches=2, chance=1.0, rng=random.Random(0))
    told = row.meta["search"]
    told["pieces"].insert(3, {"kind": "forced", "text": "no", "tokens": 1})
    told["searches"].insert(1, {"query": "nothing", "ids": ["z"], "turn": 1, "scores": [1.0], "shown": 0})
    found = list(parts(row))
    assert [part.kind for part in found] == [piece["kind"] for piece in told["pieces"]]
    assert [part.title for part in found if part.kind == "retrieved"] == [
        f"1 document for “query {at} & <b>”: {told['searches'][place]['ids'][0]}" for at, place in ((0, 0), (1, 2))
    ]
    told["pieces"][0]["text"] = "x" * 9000
    assert len(next(parts(row)).text) < 4100
