"""The eval stage of a recipe with `search:`: episodes with, without and with few searches, kept and measured."""

import asyncio
import json
from functools import partial

import pytest

from laconic.data_gen.episode_rollouts import sample_episodes
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.world import World
from laconic.eval import stage
from laconic.eval.search_results import search_results
from laconic.eval.search_stage import _ask, searches_of
from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.opening import Opened
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.recipes.entry import run_stage
from laconic.recipes.search_model import SearchSpec
from laconic.rewards.records import read_rollouts
from laconic.training import init

SEARCH = SearchSpec(protocol="spaced", k=1, max_searches=4, document_tokens=60)
SAMPLES = 2

RECIPE = """
name: searched
seed: 0
problems: {source: world, size: 60, taught_share: 0.5, train: 20, test: 12}
model: {scratch: {hidden_size: 16, layers: 1, heads: 2, max_length: 256}}
search: {protocol: spaced, k: 1, max_searches: 2, document_tokens: 40}
stages:
  - {kind: eval, models: [base], samples: 2, sampling: {max_tokens: 16}, prices: {prompt: 1, generated: 4}}
"""


@pytest.fixture(scope="module")
def world():
    return World(seed=0, size=60, taught_share=0.5)


@pytest.fixture(scope="module")
def problems(world):
    return draw_questions(world, "test", 15, seed=1)


def scholar(world, problems):
    """Looks up every page that is missing by its words, with odd seeds one more; answers right if it saw them all."""
    by_prompt = {problem.prompt: problem for problem in problems}
    texts = {document.id: document.text for document in world.documents}

    def script(context):
        problem = by_prompt[context.prompt.removeprefix("no search . ")]
        pages = [names[0] for names in problem.meta["needed_documents"]]
        queries = [" ".join(texts[name].split()[:8]) for name in pages] + ["the capital of everything"] * (
            context.seed % 2
        )
        done = context.text.count("</information>")
        if "no search is left" in context.text or done >= len(queries) or context.prompt.startswith("no search"):
            right = all(texts[name] in context.text for name in pages)
            return ["<answer>", f" {problem.answer if right else 'nobody'}", " </answer>"]
        return ["<think>", " hm", " </think>", "<search>", f" {queries[done]}", " </search>"]

    return script


@pytest.fixture(scope="module")
def drawn(world, problems, tmp_path_factory):
    """What a scripted model did, the folder it did it in, and how to ask it again."""
    work = tmp_path_factory.mktemp("work")
    (work / "rollouts").mkdir()
    runner = asyncio.Runner()
    opened = Opened(ScriptedEngine(scholar(world, problems)), "scholar")
    given = {"search": SEARCH, "samples": SAMPLES, "sampling": Sampling(max_tokens=100), "seed": 0, "runner": runner}
    draw = partial(sample_episodes, opened, Bm25Retriever.from_documents(world.documents), problems, **given)
    yield _ask(draw, work, "scholar", SEARCH.max_searches), work, draw
    runner.run(opened.engine.aclose())
    runner.close()


def test_held_to_few_searches_is_what_drawing_all_anew_gives(drawn, tmp_path):
    asked, work, draw = drawn
    counts = [searches_of(row) for row in asked.episodes]
    assert {0, 1, 2} <= set(counts)
    for budget, rows in asked.budgets.items():
        anew = draw(path=tmp_path / f"{budget}.jsonl", max_searches=budget, source=f"scholar, {budget} searches")
        found = [(row.text, row.answer, row.correct, searches_of(row)) for row in rows]
        assert found == [(row.text, row.answer, row.correct, searches_of(row)) for row in anew]
        file = work / "searches" / "scholar" / f"held_to_{budget}.jsonl"
        again = len(list(read_rollouts(file))) if file.exists() else 0
        assert again == sum(count > budget for count in counts)


def test_with_the_book_closed_nothing_is_found(drawn):
    asked, _, _ = drawn
    assert {searches_of(row) for row in asked.closed_book} == {0}
    assert all(row.meta["search"]["retrieved_tokens"] == 0 for row in asked.closed_book)


def test_a_scholar_in_numbers(drawn, problems, make):
    asked, _, _ = drawn
    settings = make.settings(baseline="scholar", samples=SAMPLES, repetitions=200)
    row, *_ = search_results(problems, {"scholar": asked}, settings, most=SEARCH.max_searches)["rows"]
    assert (row["accuracy"], row["em"], row["under_search"], row["isr"]) == (1.0, 1.0, 0.0, 1.0)
    odd = sum(episode.seed % 2 for episode in asked.episodes) / len(asked.episodes)
    assert row["over_search"] == pytest.approx(odd)
    assert row["searches"] == pytest.approx(sum(p.meta["least_searches"] for p in problems) / len(problems) + odd)
    known = sum(p.meta["least_searches"] == 0 for p in problems) / len(problems)
    assert row["closed_book"]["closed_book_accuracy"] == pytest.approx(known)
    assert row["held_to"]["0"]["accuracy"] == pytest.approx(known)
    # Without its last search it is right where that was the needless one.
    searching = [episode for episode in asked.episodes if searches_of(episode)]
    assert row["early_correct"] == pytest.approx(sum(one.seed % 2 for one in searching) / len(searching))
    assert (row["searched_missing"], row["closed_book"]["search_recall"]) == (1.0, 1.0)
    assert row["closed_book"]["intercept"] == 1.0
    assert sum(row["distribution"].values()) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "recipe.yaml").write_text(RECIPE)
    arguments = [str(folder / "recipe.yaml"), "--runs", str(folder)]
    run_stage("init", init.main, arguments)
    run_stage("eval", stage.main, arguments)
    return next(folder.glob("searched/0*-eval-*"))


def test_the_stage_measures_the_searches_of_a_model(run):
    results = json.loads((run / "results.json").read_text())
    (row,) = results["search"]["rows"]
    (plain,) = results["rows"]
    episodes = list(read_rollouts(run / "rollouts" / "base.jsonl"))
    assert len(episodes) == 12 * 2
    assert all("search" in episode.meta for episode in episodes)
    assert (row["accuracy"], row["tokens"]) == (plain["accuracy"], plain["tokens"])
    assert row["documents"] == "exact"
    assert row["seconds"] > 0
    tokens = {name: row[f"{name}_tokens"] for name in ("prompt", "retrieved", "forced")}
    assert row["price_per_1000"] == pytest.approx((sum(tokens.values()) + 4 * row["tokens"]) / 1e3)
    assert list(row["held_to"]) == ["0", "1", "2", "3"]
    assert row["closed_book"]["closed_book_samples"] == 2
    assert results["search"]["settings"]["protocol"] == "spaced"
    assert len(list(read_rollouts(run / "searches" / "base" / "closed_book.jsonl"))) == 24
    question = json.loads((run / "problems.jsonl").read_text().splitlines()[0])["prompt"]
    assert question in results["provenance"]["prompts"][0]["example"]
