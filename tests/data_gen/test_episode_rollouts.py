"""Episodes in a file: each once, with its own seed, its searches, and a verdict on what stood between the tags."""

import asyncio
import json

import pytest

from laconic.data_gen.episode_rollouts import sample_episodes
from laconic.data_gen.rollouts import request_seed
from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.episode import PROTOCOLS
from laconic.inference.opening import Opened
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document
from laconic.recipes.search_model import SearchSpec
from laconic.rewards.errors import LaunchError
from laconic.rewards.records import Problem, read_rollouts

CITIES = ("Lima", "Quito", "Bogota", "Caracas", "Santiago", "Montevideo")
PROBLEMS = [
    Problem(f"q{place}", f"country {place} ?", city, "qa", meta={"aliases": [f"{city} City"]})
    for place, city in enumerate(CITIES)
]
CORPUS = [Document(f"d{place}", f"The capital of country {place} is {city}.") for place, city in enumerate(CITIES)]
SEARCH = SearchSpec(k=2, max_searches=2, document_tokens=50)
SAMPLES = 2


def words(text):
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def question(context):
    return next(problem for problem in PROBLEMS if problem.prompt in context.prompt)


def searcher(context):
    """Asks for its country once, then reads the answer off the first document; odd seeds shout it in other words."""
    problem = question(context)
    if "<information>" not in context.text:
        return words(f"<think> hm </think><search> capital {problem.prompt} </search>")
    found = context.text.split(f"country {problem.id[1:]} is ")[-1].split(".")[0]
    return words(f"<answer> {found}{' city' if context.seed % 2 else ''} </answer>")


class Counting:
    """BM25 that notes its batches."""

    def __init__(self):
        self.inner = Bm25Retriever.from_documents(CORPUS)
        self.batches = []

    async def search(self, queries, *, k):
        self.batches.append(list(queries))
        return await self.inner.search(queries, k=k)

    async def aclose(self):
        pass


def run(path, *, script=searcher, retriever=None, problems=PROBLEMS, search=SEARCH, **given):
    engine = ScriptedEngine(script)
    settings = {"samples": SAMPLES, "sampling": Sampling(max_tokens=60), "seed": 3, "source": "scripted"} | given
    rollouts = sample_episodes(
        Opened(engine, "scripted"), retriever or Counting(), problems, search=search, path=path, **settings
    )
    assert engine.open_branches == set()
    return rollouts, engine


def test_every_episode_is_told_and_judged(tmp_path):
    retriever = Counting()
    rollouts, _ = run(tmp_path / "r.jsonl", retriever=retriever)
    assert list(read_rollouts(tmp_path / "r.jsonl")) == rollouts
    assert [(row.problem_id, row.sample) for row in rollouts] == [(p.id, s) for p in PROBLEMS for s in range(SAMPLES)]
    for row in rollouts:
        place, seed = int(row.problem_id[1:]), request_seed(3, row.problem_id, row.sample)
        told = row.meta["search"]
        assert row.seed == seed
        assert row.answer == CITIES[place] + (" city" if seed % 2 else "")
        assert row.correct
        assert row.finished
        (search,) = told["searches"]
        assert search["query"] == f"capital country {place} ?"
        assert (search["ids"][0], search["turn"], search["shown"]) == (f"d{place}", 0, 2)
        assert (told["invalid"], told["refused"], told["turns"], told["finish"]) == (0, 0, 2, "answer")
        assert "".join(piece["text"] for piece in told["pieces"]) == row.text
        assert [piece["kind"] for piece in told["pieces"]] == ["generated", "retrieved", "generated"]
        generated = sum(piece["tokens"] for piece in told["pieces"] if piece["kind"] == "generated")
        assert row.tokens == generated == row.think_tokens + row.answer_tokens
        assert row.answer_tokens == 3 + seed % 2
        assert told["retrieved_tokens"] == told["pieces"][1]["tokens"] > 0
        assert "seconds" not in told


def test_searches_of_a_turn_are_one_batch(tmp_path):
    retriever = Counting()
    run(tmp_path / "r.jsonl", retriever=retriever)
    # All say equally many words before they search; equal queries are sent once.
    assert [len(batch) for batch in retriever.batches] == [len(PROBLEMS)]


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    path = tmp_path / "r.jsonl"
    run(path)
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[3:8]) + '{"problem_id": "q0", "sa')
    _, engine = run(path)
    assert path.read_text() == whole
    _, idle = run(path)
    assert path.read_text() == whole
    assert 0 < engine.emitted < 12 * 20
    assert idle.emitted == 0


def test_a_retriever_that_fails_ends_it_and_keeps_what_is_done(tmp_path):
    class Down(Counting):
        async def search(self, queries, *, k):
            raise LaunchError("the retriever is away", cure="start it")

    def script(context):
        return words("<answer> Lima </answer>") if question(context).id == "q0" else searcher(context)

    path = tmp_path / "r.jsonl"
    with pytest.raises(LaunchError, match=r"problem q\d: the retriever is away") as failure:
        run(path, script=script, retriever=Down())
    assert failure.value.cure == "start it"
    assert {row.problem_id for row in read_rollouts(path)} == {"q0"}
    rollouts, _ = run(path)
    assert all(row.correct for row in rollouts)
    assert not rollouts[0].meta["search"]["searches"]


def greedy_searcher(context):
    """Searches until it is told that it cannot."""
    said = "budget is used up" in context.text or context.text.count("<search>") > 4
    return words("<answer> Lima </answer>" if said else "<search> capital </search>")


def test_a_smaller_budget_leaves_the_prompt_as_it_is(tmp_path):
    seen = set()

    def script(context):
        seen.add(context.prompt)
        return greedy_searcher(context)

    for budget in (0, 1, 2, None):
        rollouts, _ = run(tmp_path / f"{budget}.jsonl", script=script, max_searches=budget)
        executed = {len(row.meta["search"]["searches"]) for row in rollouts}
        assert executed == {2 if budget is None else budget}
        assert {row.meta["search"]["refused"] for row in rollouts} == {1}
    assert seen == {PROTOCOLS["search_r1"].prompt(problem.prompt) for problem in PROBLEMS}


def test_without_searches_the_book_is_closed(tmp_path):
    seen = set()

    def script(context):
        seen.add(context.prompt)
        return greedy_searcher(context)

    engine = Opened(ScriptedEngine(script), "scripted")
    given = {"samples": 1, "sampling": Sampling(max_tokens=60), "seed": 0, "source": "x"}
    rows = sample_episodes(
        engine, None, PROBLEMS, search=SEARCH, path=tmp_path / "r.jsonl", searches_enabled=False, **given
    )
    assert {(len(row.meta["search"]["searches"]), row.meta["search"]["retrieved_tokens"]) for row in rows} == {(0, 0)}
    protocol = PROTOCOLS["search_r1"]
    assert seen == {protocol.prompt(problem.prompt, searches_enabled=False) for problem in PROBLEMS}


def test_an_instruction_is_left_out_where_prompts_have_one(tmp_path):
    seen = set()

    def script(context):
        seen.add(context.prompt)
        return searcher(context)

    run(tmp_path / "r.jsonl", script=script, search=SEARCH.model_copy(update={"instruct": False}))
    assert seen == {problem.prompt for problem in PROBLEMS}


def test_an_answer_that_never_comes_is_wrong(tmp_path):
    rollouts, _ = run(tmp_path / "r.jsonl", script=lambda context: [" hm"] * 200)
    assert {(row.answer, row.correct, row.finished, row.tokens) for row in rollouts} == {(None, False, False, 60)}


def test_seconds_only_where_they_are_asked_for(tmp_path):
    rollouts, _ = run(tmp_path / "r.jsonl", clocked=True)
    assert all(json.loads(json.dumps(row.meta["search"]["seconds"])) >= 0 for row in rollouts)


def test_a_runner_of_the_caller_keeps_engine_and_loop(tmp_path):
    with asyncio.Runner() as runner:
        opened = Opened(ScriptedEngine(searcher), "scripted")
        given = {"samples": 1, "sampling": Sampling(max_tokens=60), "seed": 0, "source": "x", "runner": runner}
        for name in ("a", "b"):
            rows = sample_episodes(opened, Counting(), PROBLEMS, search=SEARCH, path=tmp_path / name, **given)
            assert all(row.correct for row in rows)
        runner.run(opened.engine.aclose())
