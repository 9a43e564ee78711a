"""Every number about searching, against sums written out by hand or done another way."""

import math
import random

import numpy as np
import pytest

from laconic.data_gen.world.audit import audit, rates
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.world import World
from laconic.eval.policy_results import Prices
from laconic.eval.search_columns import columns_of, known_of
from laconic.eval.search_knowledge import knowledge, knowledge_ratios
from laconic.eval.search_metrics import distribution, episodes_of, measure, ratios
from laconic.eval.search_results import Asked, search_results
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem, Rollout


def problem(name, answer="Lima", **meta):
    return Problem(name, f"question {name}", answer, "qa", meta=meta)


def search(query, *ids, shown=None):
    return {"query": query, "ids": list(ids), "turn": 0, "shown": len(ids) if shown is None else shown}


def rollout(problem, sample, *, right, searches=(), answer=None, **told):
    answer = (problem.answer if right else "nobody") if answer is None else answer
    meta = {"searches": list(searches), "answer": answer, "invalid": 0, "refused": 0, "finish": "answer"}
    meta |= {"retrieved_tokens": 10 * len(searches), "forced_tokens": 0, "prompt_tokens": 5, "seconds": 0.5} | told
    text = f"<answer> {answer} </answer>"
    return Rollout(problem.id, sample, problem.task, text, answer, right, True, 7, 4, 3, meta={"search": meta})


def made(searches):
    return [search(f"q{at}", f"x{at}") for at in range(searches)]


def numbers(problems, rows, *, samples, **given):
    episodes = episodes_of(rows, problems, samples=samples, source="test")
    return measure(ratios(episodes, **given), episodes.clusters, seed=0, repetitions=200)


def test_counts_of_searches():
    # (right, searches) of two samples of three problems.
    table = [[(True, 0), (True, 2)], [(False, 1), (True, 1)], [(False, 0), (False, 4)]]
    problems = [problem(f"p{at}") for at in range(3)]
    rows = [
        rollout(problems[at], sample, right=right, searches=made(count))
        for at, samples in enumerate(table)
        for sample, (right, count) in enumerate(samples)
    ]
    values = numbers(problems, rows, samples=2, prices=Prices(1.0, 10.0)).values
    expected = {
        "accuracy": 3 / 6,
        "searches": 8 / 6,
        "searches_right": 3 / 3,
        "searches_wrong": 5 / 3,
        "searched": 4 / 6,
        "tool_productivity": (1 + 1 / 3 + 1 / 2) / 6,
        "right_per_search": 3 / 8,
        "parametric_accuracy": 1 / 6,
        "parametric_precision": 1 / 2,
        "distinct_searches": 2 / 3,
        "retrieved_tokens": 80 / 6,
        "seconds": 0.5,
        "tokens": 7.0,
        "repeated_query": 0.0,
        "price_per_1000": (5 + 80 / 6 + 7 * 10) / 1e3,
        "over_search": None,
        "under_search": None,
        "useful": None,
        "isr": None,
        "searched_known": None,
        "abstention_precision": None,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    shares = distribution(episodes_of(rows, problems, samples=2, source="test"), 4)
    found = {number: float(above.mean()) for number, (above, _) in shares.items()}
    assert found == pytest.approx({"0": 2 / 6, "1": 2 / 6, "2": 1 / 6, "3": 0.0, "4": 1 / 6})


def test_what_does_not_occur_is_none():
    problems = [problem("a"), problem("b")]
    rows = [rollout(one, 0, right=True, searches=made(1)) for one in problems]
    found = numbers(problems, rows, samples=1)
    missing = ("searches_wrong", "parametric_precision", "price_per_1000")
    assert [found.flat()[name] for name in missing] == [None] * 3
    assert [found.flat()[f"{name}_ci"] for name in missing] == [None] * 3


def test_answers_are_scored_against_every_spelling():
    asked = problem("a", "Lima", golds=["Lima", "City of Kings"])
    said = columns_of(asked, rollout(asked, 0, right=False, answer="the city of Kings, Peru"))
    assert (said["em"], said["cover"]) == (0.0, 1.0)
    assert said["f1"] == pytest.approx(2 * 3 / (4 + 3))  # city of kings | city of kings peru
    assert columns_of(asked, rollout(asked, 0, right=True, answer="City of Kings!"))["em"] == 1.0
    aliased = problem("b", "Lima", aliases=["Ciudad"])
    assert columns_of(aliased, rollout(aliased, 0, right=True, answer="ciudad"))["em"] == 1.0


def test_with_gold_documents():
    asked = problem("a", gold_titles=["A", "B"])
    assert (known_of(asked), known_of(problem("b"))) == ("gold", "nothing")
    searches = [
        search("one", "A", "x"),
        search("two", "x", "B", shown=1),
        search("One!", "A"),
        search("three", "B", "y"),
    ]
    wrong = columns_of(asked, rollout(asked, 0, right=False, searches=searches[:3]))
    names = ("useful", "over", "under", "isr", "ise", "redundant", "repeated_query", "repeated_documents", "documents")
    # The second search found B, but it was not shown; the third one was made before.
    assert [wrong[name] for name in names] == [1, 0, 1, 1 / 2, 1 / 3, 2, 1, 2, 4]
    right = columns_of(asked, rollout(asked, 0, right=True, searches=searches[:3]))
    assert right["under"] == 0
    whole = columns_of(asked, rollout(asked, 0, right=True, searches=[*searches, search("four", "z")]))
    assert [whole[name] for name in names[:5]] == [2, 1, 0, 1.0, 2 / 5]
    none = columns_of(asked, rollout(asked, 0, right=False))
    assert [none[name] for name in ("isr", "ise", "under")] == [0.0, 0.0, 1.0]
    assert math.isnan(columns_of(problem("b"), rollout(problem("b"), 0, right=False))["isr"])


@pytest.fixture(scope="module")
def questions():
    return draw_questions(World(seed=0, size=60, taught_share=0.5), "test", 40, seed=1, unanswerable=0.3)


def wander(question, sample, rng):
    """Random searches: some find pages, some find nothing new."""
    pages = [name for names in question.meta["needed_documents"] for name in names]
    found = [search(f"q{rng.randrange(3)}", rng.choice([*pages, "x", "y"])) for _ in range(rng.randrange(4))]
    answer = rng.choice([question.answer, "unknown", "nobody"])
    right = answer == question.answer
    return rollout(question, sample, right=right, searches=found, answer=answer)


def test_in_a_world_they_are_the_audit(questions):
    rng = random.Random(0)
    rows = [wander(question, sample, rng) for question in questions for sample in range(3)]
    values = numbers(questions, rows, samples=3).values
    metas = {question.id: question.meta for question in questions}
    told = [row.meta["search"] for row in rows]
    audits = [audit(metas[row.problem_id], one["searches"], one["answer"]) for row, one in zip(rows, told, strict=True)]
    expected = rates(audits)
    renamed = {"searched_though_known": "searched_known", "searched_where_missing": "searched_missing"}
    assert len(expected) == 9
    for name, value in expected.items():
        assert values[renamed.get(name, name)] == pytest.approx(value), name
    pages = [len(metas[row.problem_id]["needed_documents"]) for row in rows]
    isr = [1 - one.under_searches / count for one, count in zip(audits, pages, strict=True) if count]
    assert values["isr"] == pytest.approx(np.mean(isr))


def test_searches_against_the_closed_book():
    problems = [problem(f"p{at}") for at in range(4)]
    closed = np.array([[0, 0], [0, 0], [1, 0], [1, 1]])  # accuracy 0, 0, 1/2, 1
    counts = [[1, 2], [1, 0], [1, 0], [0, 0]]
    rows = [
        rollout(problems[at], sample, right=True, searches=made(count))
        for at, of_problem in enumerate(counts)
        for sample, count in enumerate(of_problem)
    ]
    episodes = episodes_of(rows, problems, samples=2, source="test")
    measured = measure(knowledge_ratios(episodes, closed), episodes.clusters, seed=0, repetitions=200)
    found = knowledge(measured, closed)
    assert [(point["closed_book"], point["problems"], point["searched"]) for point in found["curve"]] == [
        (0.0, 2, 3 / 4),
        (0.5, 1, 1 / 2),
        (1.0, 1, 0.0),
    ]
    assert (found["intercept"], found["slope"]) == (3 / 4, 3 / 4)
    assert found["closed_book_accuracy"] == pytest.approx(3 / 8)
    # Known are the last two: of four searching episodes one is about them; of four episodes about the others one not.
    assert (found["search_precision"], found["search_recall"]) == (3 / 4, 3 / 4)
    precision, recall = 3 / 4, 3 / 4  # of the four that do not search, three are about known ones, which have four
    assert found["f1_aware"] == pytest.approx(2 * precision * recall / (precision + recall))


def simulated(rng, problems, mean):
    levels = rng.normal(size=len(problems)) * 0.5 + mean
    return [
        rollout(
            one, sample, right=bool(rng.random() < 0.6), searches=made(int(max(0, round(level + rng.normal() / 2))))
        )
        for one, level in zip(problems, levels, strict=True)
        for sample in range(2)
    ]


def test_intervals_cover_the_truth():
    problems = [problem(f"p{at}") for at in range(40)]
    rng = np.random.default_rng(0)
    truth = np.mean([len(row.meta["search"]["searches"]) for row in simulated(rng, problems * 100, 1.5)])
    hits = 0
    for _ in range(120):
        low, high = numbers(problems, simulated(rng, problems, 1.5), samples=2).intervals["searches"]
        hits += low <= truth <= high
    assert 0.88 <= hits / 120 <= 0.99


def test_few_questions_have_no_intervals():
    rng = np.random.default_rng(0)
    rows = {n: simulated(rng, [problem(f"p{at}") for at in range(n)], 1.5) for n in (9, 10)}
    found = {n: numbers([problem(f"p{at}") for at in range(n)], rows[n], samples=2).intervals for n in rows}
    assert found[9]["searches"] is None
    assert found[10]["searches"] is not None


def test_a_share_that_never_varies_still_has_an_interval():
    problems = [problem(f"p{at}") for at in range(24)]
    rows = [rollout(one, sample, right=False) for one in problems for sample in range(2)]
    found = numbers(problems, rows, samples=2)
    assert found.values["searched"] == 0.0
    low, high = found.intervals["searched"]
    # 24 times nothing: shares above 1 - 0.025^(1/24) would have shown themselves.
    assert low == 0.0
    assert 1 - 0.025 ** (1 / 24) <= high + 1e-6 < 0.25
    # How many searches there may be says nobody.
    assert found.intervals["searches"] is None
    few = [row for row in rows if row.problem_id in ("p0", "p1", "p2")]
    assert numbers(problems[:3], few, samples=2).intervals["accuracy"][1] > 0.7


def test_pairs_share_their_resamples(make):
    problems = [problem(f"p{at}") for at in range(30)]
    rng = np.random.default_rng(1)
    base = simulated(rng, problems, 2.0)
    settings = make.settings(baseline="base", samples=2, repetitions=500)
    same = search_results(problems, {"base": Asked(episodes=base), "twin": Asked(episodes=base)}, settings, most=4)
    (pair,) = same["paired"]
    # Nothing differs, from which it does not follow that nothing would.
    assert (pair["searches_ratio"], pair["searches_ratio_ci"]) == (1.0, None)
    assert (pair["d_accuracy"], pair["d_accuracy_ci"]) == (0.0, None)
    other = simulated(rng, problems, 1.0)
    (pair,) = search_results(problems, {"base": Asked(episodes=base), "m": Asked(episodes=other)}, settings, most=4)[
        "paired"
    ]
    counts = [sum(len(row.meta["search"]["searches"]) for row in rows) for rows in (other, base)]
    assert pair["searches_ratio"] == pytest.approx(counts[0] / counts[1])
    assert pair["searches_ratio_ci"][0] < pair["searches_ratio"] < pair["searches_ratio_ci"][1] < 1
    assert pair["d_searches"] == pytest.approx((counts[0] - counts[1]) / 60)
    assert pair["d_over_search"] is None


def test_accuracy_when_held_to_few_searches(make):
    problems = [problem("a"), problem("b")]
    whole = [rollout(one, 0, right=True, searches=made(2)) for one in problems]
    held = [
        rollout(problems[0], 0, right=True, searches=made(1)),
        rollout(problems[1], 0, right=False, searches=made(1)),
    ]
    settings = make.settings(baseline="m", samples=1, repetitions=100)
    (row,) = search_results(problems, {"m": Asked(episodes=whole, budgets={1: held})}, settings, most=2)["rows"]
    assert (row["held_to"]["1"]["accuracy"], row["held_to"]["1"]["searches"]) == (0.5, 1.0)
    assert row["closed_book"] is None


def test_right_before_the_last_search(make):
    problems = [problem(name) for name in "abcd"]
    whole = [rollout(one, 0, right=True, searches=made(n)) for one, n in zip(problems, (0, 1, 2, 3), strict=True)]
    # Held to one search, the third answers right; the second, held to none, wrong; of the fourth nothing is known.
    held = {
        0: [rollout(one, 0, right=one.id == "a", searches=made(0)) for one in problems],
        1: [rollout(one, 0, right=one.id in "ac", searches=made(min(1, at))) for at, one in enumerate(problems)],
    }
    settings = make.settings(baseline="m", samples=1, repetitions=100)
    for budgets, share in ((held, 0.5), ({1: held[1]}, 1.0), ({}, None)):
        (row,) = search_results(problems, {"m": Asked(episodes=whole, budgets=budgets)}, settings, most=3)["rows"]
        assert row["early_correct"] == share


def test_what_is_missing_is_named():
    problems = [problem("a"), problem("b")]
    rows = [rollout(problems[0], 0, right=True)]
    with pytest.raises(DataError, match="'b', sample 0 has no search episode"):
        episodes_of(rows, problems, samples=1, source="test")
    plain = Rollout("b", 0, "qa", "", None, False, True, 1, 0, 1)
    with pytest.raises(DataError, match="'b', sample 0 is no search episode"):
        episodes_of([*rows, plain], problems, samples=1, source="test")
