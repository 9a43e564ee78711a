"""Cascades and routers: who answers, what it costs, and how thresholds are fitted."""

import asyncio
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from laconic.inference.engine import Capability, Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.cascade import (
    Cascade,
    ConfidenceCascade,
    average_probability,
    cascade_stage,
    mean_margin,
)
from laconic.inference.policies.cascade_fit import fit_cascade
from laconic.inference.policies.routing import (
    DifficultyProbe,
    HybridRouter,
    LabelRouter,
    SemanticSwitch,
    Strategy,
    calibrate_call_share,
    difficulty_of,
    goes_to_strong,
    with_suffix,
)
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())


def saying(*tokens, capabilities=tuple(Capability), heard=None):
    """An engine that thinks and answers with fixed tokens; after a closed thought it goes on with what follows it."""

    def script(context):
        if heard is not None:
            heard.append(context)
        texts = [token if isinstance(token, str) else token.text for token in tokens]
        start = texts.index("</think>") + 1 if context.text.rstrip().endswith("</think>") else 0
        return [*tokens[start:], EOS]

    return ScriptedEngine(script, capabilities=capabilities)


def run(policy, engines=None, *, engine=None, scorer=None, prompt="q", **given):
    ask = Ask(
        engine or saying("unused"),
        prompt,
        Ledger(),
        Sampling(max_tokens=20),
        engines=engines or {},
        scorer=scorer,
        **given,
    )
    answer = asyncio.run(run_policy(policy, ask))
    for used in (ask.engine, *ask.engines.values()):
        assert not used.open_branches
    assert ask.ledger.generated == sum(used.emitted for used in {ask.engine, *ask.engines.values()})
    return answer


def spent(answer):
    """Generated tokens by role and fate, without zeros."""
    table = answer.ledger.by_role_and_fate()
    return {(role, fate): n for role, row in table.items() for fate, n in row.items() if n}


def scores(table, asked=None):
    async def scorer(prompt, texts):
        if asked is not None:
            asked.extend(texts)
        return [next(score for part, score in table.items() if part in text) for text in texts]

    return scorer


SMALL = ("<think>", "a", "</think>", "1")
MIDDLE = ("2",)
LARGE = ("<think>", "b", "c", "</think>", "3")


@pytest.mark.parametrize(
    ("small", "middle", "stage", "expected"),
    [
        (0.5, 0.0, 0, {("think", "kept"): 3, ("answer", "kept"): 2}),
        (0.49, 0.8, 1, {("think", "discarded"): 3, ("answer", "discarded"): 2, ("answer", "kept"): 2}),
        (
            0.49,
            0.79,
            2,
            {("think", "discarded"): 3, ("answer", "discarded"): 4, ("think", "kept"): 4, ("answer", "kept"): 2},
        ),
    ],
)
def test_a_cascade_goes_up_until_a_score_reaches_its_threshold(small, middle, stage, expected):
    asked = []
    engines = {"s": saying(*SMALL), "m": saying(*MIDDLE), "l": saying(*LARGE)}
    policy = Cascade(("s", "m", "l"), (0.5, 0.8))
    answer = run(policy, engines, scorer=scores({"1": small, "2": middle}, asked))
    assert answer.answer == str(stage + 1)
    assert answer.notes == {"stage": stage, "engine": "sml"[stage], "scores": [small, middle][: stage + 1]}
    assert spent(answer) == expected
    assert answer.ledger.critical_path == answer.ledger.generated  # one stage after the other
    assert len(asked) == min(stage + 1, 2)  # the last stage is not scored
    assert answer.finish == "stop"


def test_a_rejected_stage_is_freed_before_the_next_begins():
    small = saying("1")
    large = ScriptedEngine(lambda context: ["busy" if small.open_branches else "free"])
    answer = run(Cascade(("s", "l")), {"s": small, "l": large}, scorer=scores({"": 0.0}))
    assert answer.answer == "free"


def test_an_answer_that_was_cut_goes_on_without_a_score():
    asked = []
    engines = {"s": saying("<think>", *"x" * 30), "l": saying("3")}
    answer = run(Cascade(("s", "l"), (-math.inf,)), engines, scorer=scores({"": 1.0}, asked))
    assert (answer.answer, asked, answer.notes["scores"]) == ("3", [], [None])
    assert spent(answer) == {("think", "discarded"): 20, ("answer", "kept"): 2}


def test_a_last_stage_that_is_cut_is_returned_as_cut():
    engines = {"s": saying("1"), "l": saying("<think>", *"x" * 30)}
    answer = run(Cascade(("s", "l"), (math.inf,)), engines, scorer=scores({"": 1.0}))
    assert (answer.answer, answer.finish) == (None, "length")


def test_engines_and_scorers_that_are_missing_are_named():
    with pytest.raises(LaunchError, match="'large'"):
        run(Cascade(), {"small": saying("1")}, scorer=scores({"": 1.0}))
    with pytest.raises(LaunchError, match="scorer"):
        run(Cascade(), {"small": saying("1"), "large": saying("2")})
    with pytest.raises(RecipeError, match="2 thresholds"):
        Cascade(("a", "b"), (0.5, 0.5))


def confident(text, p, second=0.0):
    return Token(text, logprob=math.log(p), top=(math.log(p), math.log(second) if second else -math.inf))


@pytest.mark.parametrize(("p", "stage"), [(0.25, 0), (0.249, 1)])
def test_confidence_is_read_from_the_answer_alone(p, stage):
    doubted = [confident("<think>", 0.01), confident("</think>", 0.01), confident("4", 1.0), confident("2", p**2)]
    engines = {"s": saying(*doubted), "l": saying("43")}
    answer = run(ConfidenceCascade(("s", "l"), "avg_logprob", (0.25,)), engines)
    assert answer.answer == ("42", "43")[stage]
    assert answer.notes["scores"] == [pytest.approx(p)]
    assert spent(answer)["think", "kept" if stage == 0 else "discarded"] == 2


@pytest.mark.parametrize(("second", "stage"), [(0.25, 0), (0.26, 1)])
def test_the_margin_is_the_lead_over_the_second_token(second, stage):
    engines = {"s": saying(confident("7", 0.75, second)), "l": saying("8")}
    answer = run(ConfidenceCascade(("s", "l"), "margin", (0.5,)), engines)
    assert answer.notes["stage"] == stage


def test_the_statistics_have_their_closed_forms():
    assert average_probability(np.log([0.5, 0.125])) == pytest.approx(0.25)
    assert mean_margin([np.log([0.75, 0.25]), np.log([0.5, 0.4, 0.1])]) == pytest.approx(0.3)
    with pytest.raises(LaunchError, match="fewer than two"):
        mean_margin([[-0.1]])


def test_an_engine_without_log_probabilities_is_refused_before_the_first_token():
    engines = {"s": saying("1", capabilities=[Capability.STOP]), "l": saying("2")}
    with pytest.raises(LaunchError, match="log-probabilities of generated"):
        run(ConfidenceCascade(("s", "l")), engines)
    assert engines["s"].emitted == 0
    with pytest.raises(RecipeError, match="0 to 1"):
        ConfidenceCascade(thresholds=(-1.0,))  # what the released code compares with, and so never escalates


def frugal(budget):
    given = GOLDEN["frugalgpt.optimize_b2.0"]["input"]
    score = 1 - np.array(given["distance=1-score"])
    return fit_cascade(given["correct(n x stage)"], given["cumulative_cost"], score, budget=budget)


def test_a_budget_below_the_first_stage_is_refused():
    golden = GOLDEN["frugalgpt.optimize_b0.5"]
    assert golden["output"]["accuracy"] == -999
    with pytest.raises(RecipeError, match=r"0\.5") as refusal:
        frugal(golden["input"]["avg_budget"])
    assert "costs 1 " in refusal.value.cure


def test_a_feasible_chain_is_found_where_the_released_code_breaks_the_budget():
    golden = GOLDEN["frugalgpt.optimize_b2.0"]["output"]
    fit = frugal(2.0)
    assert golden["avg_cost"] > 2.0
    assert (fit.accuracy, fit.cost, fit.stages) == (0.5, 1.0, (0,) * 8)
    assert fit.thresholds[0] == -math.inf  # the first stage answers everything


def test_the_best_chain_is_found_where_the_released_code_misses_it():
    # Budget 8: the released code stops at accuracy 0.625 for 6.6.
    fit = frugal(8.0)
    assert (fit.accuracy, fit.cost) == (0.75, 3.5)
    assert fit.stages == (0, 1, 0, 1, 0, 1, 1, 0)
    assert frugal(3.5) == fit  # the budget may be used up
    assert frugal(3.4).accuracy < 0.75


def brute_force(right, cost, score, budget):
    """The best chain by trying every observed score, and infinity, as threshold."""
    best = None
    grids = [[math.inf, -math.inf, *column] for column in score.T[:-1]]
    for thresholds in itertools.product(*grids):
        stages = [cascade_stage(row, thresholds) for row in score.tolist()]
        rows = np.arange(len(right))
        found = (right[rows, stages].mean(), -cost[stages].mean())
        if -found[1] <= budget + 1e-9 and (best is None or found > best):
            best = found
    return best


@pytest.mark.parametrize("seed", range(12))
def test_no_chain_beats_the_fitted_one(seed):
    rng = np.random.default_rng(seed)
    n, k = 7, 2 + seed % 3
    right, score = rng.integers(0, 2, (n, k)).astype(float), rng.integers(0, 6, (n, k)) / 5  # scores with ties
    cost = np.cumsum(rng.integers(1, 9, k)).astype(float)
    budget = cost[0] + rng.random() * (cost[-1] - cost[0])
    fit = fit_cascade(right, cost, score, budget=budget)
    assert (fit.accuracy, -fit.cost) == pytest.approx(brute_force(right, cost, score, budget))
    assert fit.stages == tuple(cascade_stage(row, fit.thresholds) for row in score.tolist())


def test_fitting_refuses_shapes_that_do_not_fit():
    with pytest.raises(RecipeError, match="shapes"):
        fit_cascade([[1, 0]], [1, 2], [[0.1]], budget=9)


def test_the_threshold_of_a_call_share_is_the_authors():
    golden = GOLDEN["routellm.calibrate"]
    rates, shares = golden["input"]["win_rates"], golden["input"]["strong_pct"]
    np.testing.assert_allclose(calibrate_call_share(rates, shares), golden["output"], rtol=1e-12)
    # It is a share of calls: 10 questions, so 1, 2.5, 5 and 9 of them, as near as whole calls come.
    called = [sum(goes_to_strong(rate, t) for rate in rates) for t in golden["output"]]
    assert called == [1, 3, 5, 9]


def constant(value):
    async def router(ask):
        return value

    return router


@pytest.mark.parametrize(("rate", "expected"), [(0.6, "strong"), (0.599, "weak")])
def test_a_router_starts_one_engine_only(rate, expected):
    engines = {"weak": saying("w"), "strong": saying("s", "s")}
    answer = run(HybridRouter(threshold=0.6, router=constant(rate)), engines)
    assert answer.answer == {"weak": "w", "strong": "ss"}[expected]
    assert spent(answer) == {("answer", "kept"): {"weak": 2, "strong": 3}[expected]}
    assert engines["weak" if expected == "strong" else "strong"].emitted == 0
    assert answer.notes == {"win_rate": rate, "engine": expected}


def test_without_a_router_the_scorer_judges_the_bare_question():
    asked = []
    engines = {"weak": saying("w"), "strong": saying("s")}
    answer = run(HybridRouter(), engines, scorer=scores({"": 0.5}, asked))
    assert (answer.answer, asked) == ("s", [""])
    with pytest.raises(LaunchError, match="scorer"):
        run(HybridRouter(), engines)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(("I", " say", " Hard", ", not easy"), "s"), (("easy",), "w"), (("no", " idea"), "s")],
)
def test_a_language_model_routes_and_its_tokens_are_counted(reply, expected):
    heard = []
    engines = {"weak": saying("w"), "strong": saying("s"), "router": saying(*reply, heard=heard)}
    router = LabelRouter("router", "Easy or hard? {prompt}", {"easy": 0.0, "hard": 1.0}, otherwise=0.9, max_tokens=9)
    answer = run(HybridRouter(router=router), engines, prompt="What is 2 + 3?")
    assert answer.answer == expected
    assert heard[0].prompt == "Easy or hard? What is 2 + 3?"
    assert spent(answer) == {("route", "discarded"): len(reply) + 1, ("answer", "kept"): 2}
    assert answer.ledger.critical_path == len(reply) + 3  # the answer waits for the router


@pytest.mark.parametrize(("opens_thinking", "closed"), [(False, "<think>\n\n</think>\n\n"), (True, "\n\n</think>\n\n")])
def test_thinking_is_closed_at_once_where_it_is_not_worth_it(opens_thinking, closed):
    policy = SemanticSwitch(threshold=0.3, router=constant(0.29))
    answer = run(policy, engine=saying(*LARGE), opens_thinking=opens_thinking)
    assert (answer.text, answer.answer) == (closed + "3", "3")
    assert spent(answer) == {("answer", "kept"): 2}
    assert answer.ledger.forced == len(closed.split())
    assert answer.notes == {"worth": 0.29, "thinks": False}


def test_thinking_that_is_worth_it_is_left_alone():
    answer = run(SemanticSwitch(threshold=0.3, router=constant(0.3)), engine=saying(*LARGE))
    assert answer.text == "<think>bc</think>3"
    assert spent(answer) == {("think", "kept"): 4, ("answer", "kept"): 2}
    assert (answer.ledger.forced, answer.notes["thinks"]) == (0, True)


def test_the_switch_needs_an_engine_that_takes_forced_text():
    with pytest.raises(LaunchError, match="raw prefix"):
        run(SemanticSwitch(router=constant(0.0)), engine=saying("1", capabilities=[Capability.STOP]))


STRATEGIES = {"easy": Strategy(" Be short.", 0.2, 0.25), "hard": Strategy(" Think.", None, 1.0)}


@pytest.mark.parametrize(
    ("probed", "difficulty", "prompt", "kept", "finish"),
    [
        ([0.5, 0.3, 0.2], "easy", "q Be short.", 5, "policy_stop"),
        ([0.3, 0.5, 0.2], "normal", "q", 11, "stop"),
        ([0.1, 0.1, 0.8], "hard", "q Think.", 11, "stop"),
    ],
)
def test_difficulty_fixes_prompt_and_budget(probed, difficulty, prompt, kept, finish):
    heard = []
    engine = saying("<think>", *"abcdef", "</think>", "4", "2", heard=heard)
    answer = run(DifficultyProbe(**STRATEGIES, probe=constant(probed)), engine=engine)
    assert answer.notes == {"difficulty": difficulty, "scores": probed}
    assert {context.prompt for context in heard} == {prompt}
    assert (sum(spent(answer).values()), answer.finish) == (kept, finish)
    assert answer.answer == (None if finish == "policy_stop" else "42")


def test_difficulty_fixes_the_temperature():
    class Noting(ScriptedEngine):
        def open(self, prompt, *, ledger, sampling=None, seed=0):
            temperatures.append(sampling.temperature)
            return super().open(prompt, ledger=ledger, sampling=sampling, seed=seed)

    temperatures = []
    for probed in ([1, 0, 0], [0, 1, 0]):
        run(DifficultyProbe(**STRATEGIES, probe=constant(probed)), engine=Noting(lambda context: ["1"]))
    assert temperatures == [0.2, 1.0]


def test_without_a_probe_the_scorer_judges_the_three_words():
    answer = run(DifficultyProbe(), engine=saying("1"), scorer=scores({"easy": 0.1, "normal": 0.7, "hard": 0.2}))
    assert answer.notes["difficulty"] == "normal"
    with pytest.raises(LaunchError, match="2 scores"):
        run(DifficultyProbe(probe=constant([0.1, 0.9])), engine=saying("1"))


def test_difficulty_rules():
    assert [difficulty_of(row) for row in ([1, 0, 0], [0, 1, 1], [1, 1, 0])] == ["easy", "hard", "normal"]
    assert with_suffix([{"role": "user", "content": "q"}], "!") == [{"role": "user", "content": "q!"}]
    built = POLICIES["difficulty_probe"].build({"easy": {"suffix": " x", "budget": 0.1}})
    assert built.easy == Strategy(" x", None, 0.1)
    with pytest.raises(RecipeError, match=r"hard\.budget"):
        DifficultyProbe(hard=Strategy(budget=0.0))
