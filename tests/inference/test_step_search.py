"""Beam search, verifier trees, particle filtering and A*-decoding: published vectors and exact ledgers."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.best_first import estimate
from laconic.inference.policies.step_search import annealed, logit, particle_weights, shares, survivors
from laconic.inference.policies.steps import aggregate, draw_without_replacement
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())


class Steps:
    """A model whose steps are numbered: 5 tokens each, three to a completion; it keeps what it was asked for."""

    def __init__(self, last=2):
        self.calls, self.last = [], last

    def __call__(self, context):
        number = len(self.calls)
        self.calls.append((context.text.count("\n\n"), context.role))
        return [f"x{number}", "", "", "", EOS if context.text.count("\n\n") == self.last else "\n\n"]


def numbers(text):
    return [int(step.strip()[1:]) for step in text.split("\n\n") if step.strip()]


class Judge:
    """Scores the newest step by its number; keeps the texts."""

    def __init__(self, value=lambda number: number / 100):
        self.value, self.texts = value, []

    async def __call__(self, prompt, texts):
        self.texts += texts
        return [self.value(numbers(text)[-1]) for text in texts]


def solve(name, script, judge, *, max_tokens=100, seed=0, **parameters):
    async def go():
        engine = ScriptedEngine(script)
        ask = Ask(engine, "q", Ledger(), Sampling(max_tokens=max_tokens), seed=seed, scorer=judge)
        answer = await run_policy(POLICIES[name].build(parameters), ask)
        assert answer.ledger.generated == engine.emitted
        assert not engine.open_branches
        return answer

    return asyncio.run(go())


def test_aggregation_is_the_published_one():
    case = GOLDEN["sal.aggregate"]
    assert {how: pytest.approx(aggregate(case["input"], how)) for how in ("last", "min", "prod")} == case["output"]


@pytest.mark.parametrize(
    ("name", "key"), [("step_beam", "sal.beam_n4_m2_look0"), ("diverse_trees", "sal.dvts_n4_m2_look0")]
)
def test_searches_generate_and_score_what_the_published_ones_do_and_count_it(name, key):
    expected, script, judge = GOLDEN[key]["output"], Steps(), Judge()
    answer = solve(name, script, judge, paths=4, width=2)
    levels = Counter(level for level, _ in script.calls)
    assert [levels[level] for level in range(3)] == expected["generate_calls"]
    assert answer.ledger.generated == expected["tokens_really_generated"]
    assert len(judge.texts) == expected["prm_scored_texts"]
    assert answer.finish == "stop"
    assert answer.ledger.critical_path == 15


def test_lookahead_generates_as_much_as_the_published_one_and_is_counted_as_discarded_probes():
    expected, script, judge = GOLDEN["sal.beam_n4_m2_look1"]["output"], Steps(), Judge()
    answer = solve("step_beam", script, judge, paths=4, width=2, lookahead=1)
    assert answer.ledger.generated == expected["tokens_really_generated"]
    assert len(judge.texts) == expected["prm_scored_texts"]
    assert answer.ledger.tokens("probe", "discarded") == 40
    assert answer.ledger.critical_path == 25
    # Every one of the first two levels was scored with the step after it, the last had nothing to look ahead to.
    assert [len(numbers(text)) for text in judge.texts] == [2] * 4 + [3] * 8


def test_beam_keeps_the_best_and_settles_the_rest():
    script = Steps()
    answer = solve("step_beam", script, Judge(), paths=4, width=2)
    # Steps 3 and 2 go on twice each, as 4, 5 and 6, 7; then 7 and 6 do, as 8, 9 and 10, 11.
    assert numbers(answer.text) == [2, 6, 11]
    # Three more completions finished: their ends, and step 7.
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 15, "voted": 20, "discarded": 25}
    assert sorted(answer.notes["scores"]) == [0.08, 0.09, 0.10, 0.11]
    assert answer.confidence == 0.11


def test_beam_lets_finished_paths_leave_and_fills_the_pool_with_the_others():
    # Odd steps end at once; the others go on for another level.
    calls = []

    def script(context):
        number = len(calls)
        calls.append(context.text.count("\n\n"))
        return [f"x{number}", EOS if number % 2 or context.text.count("\n\n") else "\n\n"]

    answer = solve("step_beam", script, Judge(lambda number: 1 - number / 100), paths=4, width=2)
    # Two of four finish; the two others fill four slots again, all of which finish.
    assert calls == [0] * 4 + [1] * 4
    assert numbers(answer.text) == [1]
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 2, "voted": 14, "discarded": 0}


def test_its_hub_budget_is_not_followed_levels_are_as_wide_and_as_many_as_said():
    for key, paths, width in (("its_hub.beam_calls_w2_b8", 8, 4), ("its_hub.beam_calls_w4_b4", 4, 1)):
        case, script = GOLDEN[key], Steps(last=10)
        answer = solve("step_beam", script, Judge(), paths=paths, width=width, max_steps=case["input"]["max_steps"])
        levels = Counter(level for level, _ in script.calls)
        assert answer.notes["levels"] == case["input"]["max_steps"] < len(case["output"]["generations_per_level"])
        assert list(levels.values()) == [case["input"]["budget"]] * 2


def test_last_level_runs_to_the_end():
    answer = solve(
        "step_beam", lambda context: ["x1", "\n\n", "x2", "\n\n", "x3"], Judge(), paths=1, width=1, max_steps=1
    )
    assert answer.text == "x1\n\nx2\n\nx3"
    assert (answer.finish, answer.ledger.generated) == ("stop", 6)


def test_trees_do_not_see_each_other():
    # In the first tree every step is better than any in the second; a beam would drop the second tree.
    script = Steps()
    answer = solve("diverse_trees", script, Judge(lambda number: 1 - number / 100), paths=4, width=2)
    assert numbers(answer.text) == [0, 4, 8]
    assert sorted(answer.notes["scores"]) == [0.89, 0.90, 0.91, 0.92]
    # Dropped: one of two candidates in each tree at the first two levels.
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 15, "voted": 25, "discarded": 20}


def test_what_the_budget_cut_wins_only_if_nothing_ended():
    def script(context):
        return ["x9", ""] if context.branch == 0 else ["x1"]

    answer = solve("step_beam", script, Judge(), paths=2, width=1, max_tokens=2)
    assert (numbers(answer.text), answer.finish) == ([1], "stop")
    answer = solve("step_beam", lambda context: ["x9", "", ""], Judge(lambda n: n), paths=2, width=1, max_tokens=2)
    assert (answer.finish, answer.ledger.tokens(fate="kept"), answer.ledger.tokens(fate="discarded")) == (
        "length",
        2,
        2,
    )
    assert answer.confidence is None


def test_thinking_and_answer_are_accounted_apart_also_within_a_step():
    script = lambda context: ["<think>", "x1", "\n\n", "x2", "</think>", "7", EOS][3 if "\n\n" in context.text else 0 :]  # noqa: E731

    def after_close(context):
        return ["7", EOS] if "</think>" in context.text else script(context)

    async def judge(prompt, texts):
        return [0.5] * len(texts)

    answer = solve("step_beam", after_close, judge, paths=1, width=1)
    assert (answer.text, answer.answer, answer.notes["levels"]) == ("<think>x1\n\nx2</think>7", "7", 2)
    assert (answer.ledger.tokens("think"), answer.ledger.tokens("answer")) == (5, 2)


def test_logits_and_particle_weights_are_the_published_ones():
    case = GOLDEN["its_hub.inv_sigmoid"]
    assert [logit(score) for score in case["input"]] == pytest.approx(case["output"], abs=1e-8)
    case = GOLDEN["its_hub.pf_weights"]
    assert particle_weights(case["input"]) == pytest.approx(case["output"], abs=1e-8)
    case = GOLDEN["pis.weights"]
    for temperature in case["input"]["T"]:
        weights = particle_weights(case["input"]["rewards"], temperature)
        assert weights == pytest.approx(case["output"][str(temperature)], abs=1e-8)


def test_annealing_begins_at_its_first_temperature():
    assert [annealed(4.0, 1.0, 4, step) for step in range(6)] == [4.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert annealed(4.0, 1.0, 1, 0) == 1.0
    policy = POLICIES["particle_filter"].build({"anneal_from": 4.0, "anneal_steps": 4})
    assert [policy.temperature_at(level) for level in (1, 2, 4, 5)] == [4.0, 3.0, 1.0, 1.0]


def test_particles_follow_the_odds_and_copies_share_what_they_have():
    # One particle has all the weight: after the first level all are its copies.
    script = Steps(last=1)
    answer = solve("particle_filter", script, Judge(lambda number: {2: 1.0}.get(number, 0.0)), paths=4)
    assert answer.ledger.generated == 20 + 20
    assert numbers(answer.text)[0] == 2
    # Three of the first four steps are dropped; the four ends share the one that is left.
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 10, "voted": 15, "discarded": 15}


def test_finished_particles_are_resampled_too_and_do_not_grow():
    calls = []

    def script(context):
        calls.append(context.branch)
        return (
            ["x1", EOS]
            if context.branch == 1
            else [f"x{0 if not context.text else 5}", EOS if context.text else "\n\n"]
        )

    answer = solve("particle_filter", script, Judge(lambda number: float(number == 1)), paths=3)
    # The finished one has all the weight: nothing grows any more.
    assert len(calls) == 3
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 2, "voted": 0, "discarded": 4}
    assert answer.confidence == 1.0


def test_particle_runs_repeat_with_their_seed():
    def texts(seed):
        script = Steps(last=4)
        return solve("particle_filter", script, Judge(lambda n: 0.5), seed=seed, paths=8, pick="sample").text

    assert texts(3) == texts(3)
    assert len({texts(seed) for seed in range(6)}) > 1


def test_survivors_and_shares():
    assert survivors([0.1, 0.5, 0.5], 2) == [1, 2]
    assert [shares(count, 5) for count in (1, 2, 3, 5)] == [[5], [3, 2], [2, 2, 1], [1] * 5]


def test_drawing_without_replacement_takes_weightless_places_last():
    rng = np.random.default_rng(0)
    assert draw_without_replacement([0.0, 1.0, 0.0], 2, rng) == [1, 0]
    first = Counter(draw_without_replacement([0.75, 0.25], 1, rng)[0] for _ in range(2000))
    assert first[0] / 2000 == pytest.approx(0.75, abs=0.03)


def test_a_star_expands_the_least_cost_plus_doubt():
    assert estimate(0.75, 0.5, cost=2.0) == pytest.approx(1.25)
    # Step 1 is better than 0; its children (2, 3) are worse than 0, which is expanded next: 5 ends the search.
    values = {0: 0.6, 1: 0.8, 2: 0.5, 3: 0.3, 4: 0.1, 5: 0.9}
    script = Steps(last=1)
    answer = solve("astar_decoding", script, Judge(values.get), branching=2, cost=0.0)
    assert numbers(answer.text) == [0, 5]
    assert answer.notes["expanded"] == pytest.approx([0.0, 0.2, 0.4])
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 10, "voted": 20, "discarded": 0}


def test_a_star_weighs_what_was_spent():
    # With cost, 5 tokens of 10 make the children of the better step worse than its sibling, without it they do not.
    values = {0: 0.6, 1: 0.8, 2: 0.7, 3: 0.3, 4: 0.99, 5: 0.1}
    texts = [
        numbers(solve("astar_decoding", Steps(last=1), Judge(values.get), max_tokens=11, branching=2, cost=cost).text)
        for cost in (0.0, 1.0)
    ]
    assert texts == [[1, 2], [0, 4]]


def test_a_star_that_may_not_expand_any_more_finishes_the_best():
    answer = solve("astar_decoding", Steps(last=3), Judge(), branching=2, max_expansions=1)
    assert (numbers(answer.text)[0], answer.finish) == (1, "stop")
    assert answer.ledger.by_role_and_fate()["answer"]["discarded"] == 5


def test_of_equal_values_a_star_goes_on_where_it_is_deepest():
    # An exact verifier finds every path right; the search then is as short as a path is long.
    answer = solve("astar_decoding", Steps(last=3), Judge(lambda number: 1.0), branching=3, cost=0.0)
    assert answer.notes["expanded"] == [0.0] * 4
    assert (len(numbers(answer.text)), answer.finish) == (4, "stop")


@pytest.mark.parametrize(("max_tokens", "text"), [(20, "right.and.on"), (4, "wrong")])
def test_a_star_prefers_a_right_beginning_to_a_wrong_end_if_the_budget_lets_it_end(max_tokens, text):
    async def judge(prompt, texts):
        return [float(text.startswith("right")) for text in texts]

    def script(context):
        if context.text:
            return ["and", ".on", EOS]
        return ["wrong", EOS] if context.branch == 0 else ["right", "."]

    answer = solve("astar_decoding", script, judge, branching=2, separator=".", max_expansions=1, max_tokens=max_tokens)
    assert (answer.text, answer.finish) == (text, "stop")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("step_beam", {"paths": 4, "width": 3}),
        ("step_beam", {"max_steps": 0}),
        ("step_beam", {"separator": ""}),
        ("step_beam", {"aggregation": "mean"}),
        ("diverse_trees", {"paths": 0}),
        ("particle_filter", {"temperature": 0.0}),
        ("particle_filter", {"pick": "worst"}),
        ("astar_decoding", {"branching": 0}),
    ],
)
def test_wrong_parameters_are_refused(name, wrong):
    with pytest.raises(RecipeError):
        POLICIES[name].build(wrong)


def test_scorers_that_break_their_promise_are_refused():
    async def short(prompt, texts):
        return [0.5]

    async def beyond(prompt, texts):
        return [1.5] * len(texts)

    with pytest.raises(LaunchError, match="1 numbers for 4 texts"):
        solve("step_beam", Steps(), short, paths=4, width=2)
    with pytest.raises(LaunchError, match=r"gave 1\.5"):
        solve("particle_filter", Steps(), beyond)


def test_a_path_that_fails_ends_the_search_and_what_the_others_said_is_counted():
    def script(context):
        return ["a", RuntimeError("lost")] if context.branch == 1 else ["a", "b", "c", "\n\n"]

    async def go():
        engine, ledger = ScriptedEngine(script), Ledger()
        ask = Ask(engine, "q", ledger, scorer=Judge())
        with pytest.raises(RuntimeError, match="lost"):
            await run_policy(POLICIES["step_beam"].build({"paths": 2, "width": 1}), ask)
        assert not engine.open_branches
        assert ledger.generated == engine.emitted > 0

    asyncio.run(go())
