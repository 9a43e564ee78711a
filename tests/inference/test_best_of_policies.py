"""Best-of-N, best-of-mini-N and selective answering: decisions and exact accounts."""

import asyncio
import math

import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import sample_seed
from laconic.inference.policies.best_of import BestOfMiniN, BestOfN, acceptable, weighted_vote
from laconic.inference.policies.candidates import tally, together
from laconic.inference.policies.plain import Plain
from laconic.inference.policies.selective import Selective, answers, break_even, utility, utility_at
from laconic.rewards.errors import LaunchError, RecipeError

# By sample number: thinking 3, 4, 5 tokens with its tags, then the answer and the end; the last never closes.
TRACES = ["<think> a </think> 7", "<think> a b </think> 8", "<think> a b c </think> 8", "<think> " + "z " * 40]
SAMPLE = {sample_seed(0, number): number for number in range(100)}
"""Seeds of a question with seed 0, by the number of the sample."""
SCORES = {TRACES[0]: 0.9, TRACES[1]: 0.5, TRACES[2]: 0.6}


class Scorer:
    """Scores by text, and remembers what it was asked."""

    def __init__(self, table):
        self.table, self.calls = table, []

    async def __call__(self, prompt, texts):
        self.calls.append([text.strip() for text in texts])
        return [self.table[text.strip()] for text in texts]


def play(policy, traces=TRACES, scorer=None, max_tokens=8, **ask):
    starts = []

    def script(context):
        if not context.text:
            starts.append(SAMPLE[context.seed])
        return [f" {word}" for word in traces[SAMPLE[context.seed]].split()[len(context.text.split()) :]]

    engine = ScriptedEngine(script)
    question = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=max_tokens), scorer=scorer, **ask)
    answer = asyncio.run(run_policy(policy, question))
    assert answer.ledger.generated == engine.emitted
    assert not engine.open_branches
    return answer, starts


def table(answer):
    """Role -> tokens kept, voted, discarded; roles that were not used left out."""
    rows = answer.ledger.by_role_and_fate()
    return {role: tuple(row.values()) for role, row in rows.items() if any(row.values())}


def test_weighted_vote_sums_scores_of_equal_answers():
    assert weighted_vote(["7", "8", "8"], [0.9, 0.5, 0.6]) == "8"
    assert weighted_vote(["7", "8", "8"], [1.2, 0.5, 0.6]) == "7"
    assert weighted_vote(["8", "7", "7"], [1.0, 0.5, 0.5]) == "8"  # a tie goes to the one seen first
    assert weighted_vote(
        ["1/2", "0.5", "3"], [0.4, 0.4, 0.7], equal=lambda a, b: {a, b} <= {"1/2", "0.5"} or a == b
    ) == ("1/2")
    with pytest.raises(RecipeError):
        weighted_vote(["7"], [])


def test_tally_keeps_every_place_once():
    groups = tally(["a", "b", "a", "c", "b"], [1.0, 2.0, 1.5, 0.5, 1.0])
    assert [(group.members, group.weight) for group in groups] == [((1, 4), 3.0), ((0, 2), 2.5), ((3,), 0.5)]


def test_best_of_n_returns_the_best_and_scores_only_what_finished():
    scorer = Scorer(SCORES)
    answer, starts = play(BestOfN(samples=4), scorer=scorer)
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", 0.9)
    assert scorer.calls == [TRACES[:3]]
    assert starts == [0, 1, 2, 3]
    assert table(answer) == {"think": (3, 9, 8), "answer": (2, 4, 0)}
    assert answer.ledger.critical_path == 8


def test_weighted_best_of_n_returns_the_best_completion_of_the_heaviest_answer():
    answer, _ = play(BestOfN(samples=4, choose="weighted"), scorer=Scorer(SCORES))
    assert answer.answer == "8"
    assert answer.text.strip() == TRACES[2]
    assert answer.confidence == pytest.approx(1.1 / 2.0)
    assert table(answer) == {"think": (5, 7, 8), "answer": (2, 4, 0)}


def test_best_of_n_has_no_confidence_outside_0_to_1_and_takes_the_first_of_equal_scores():
    answer, _ = play(BestOfN(samples=3), scorer=Scorer(dict.fromkeys(TRACES, 1.5)))
    assert (answer.answer, answer.confidence) == ("7", None)


def test_best_of_n_does_not_score_an_answer_that_was_cut():
    scorer = Scorer({"7": 0.1})
    answer, _ = play(BestOfN(samples=2), traces=["it is " * 9, "7"], scorer=scorer)
    assert (answer.answer, answer.finish, scorer.calls) == ("7", "stop", [["7"]])
    assert table(answer) == {"answer": (2, 0, 8)}


def test_best_of_n_without_a_finished_completion_returns_the_first_unscored():
    scorer = Scorer({})
    answer, _ = play(BestOfN(samples=2), traces=[TRACES[3]] * 2, scorer=scorer)
    assert (answer.answer, answer.finish, scorer.calls) == (None, "length", [])
    assert table(answer) == {"think": (8, 0, 8)}


@pytest.mark.parametrize("given", [[0.5], [0.5, 0.5, math.nan]])
def test_a_scorer_that_gives_too_few_or_no_numbers_is_refused(given):
    async def scorer(prompt, texts):
        return given

    with pytest.raises(LaunchError, match="the scorer gave"):
        play(BestOfN(samples=3), scorer=scorer)


def test_acceptable_at_the_threshold():
    assert acceptable(0.7, 0.7)
    assert not acceptable(0.6999, 0.7)


def test_mini_n_stops_after_the_round_that_reaches_the_threshold():
    traces = [TRACES[1], TRACES[2], TRACES[0], TRACES[1], TRACES[0], TRACES[0]]
    scorer = Scorer(SCORES)
    answer, starts = play(BestOfMiniN(samples=6, loops=3, threshold=0.9), traces=traces, scorer=scorer)
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", 0.9)
    assert starts == [0, 1, 2, 3]
    assert scorer.calls == [traces[:2], traces[2:4]]
    assert table(answer) == {"think": (3, 13, 0), "answer": (2, 6, 0)}
    assert answer.ledger.critical_path == 7 + 6  # the rounds wait for each other
    assert answer.notes["rounds"] == 2


def test_mini_n_abstains_after_the_last_round():
    answer, starts = play(BestOfMiniN(samples=4, loops=2, threshold=0.91), scorer=Scorer(SCORES))
    assert (answer.text, answer.answer, answer.finish, answer.confidence) == ("", None, "abstained", 0.9)
    assert starts == [0, 1, 2, 3]
    assert table(answer) == {"think": (0, 12, 8), "answer": (0, 6, 0)}


def test_mini_n_as_an_accelerator_returns_the_best_of_all_rounds():
    policy = BestOfMiniN(samples=4, loops=2, threshold=0.91, abstain=False)
    answer, _ = play(policy, scorer=Scorer(SCORES))
    assert (answer.answer, answer.finish) == ("7", "stop")
    assert table(answer) == {"think": (3, 9, 8), "answer": (2, 4, 0)}


@pytest.mark.parametrize("wrong", [{"samples": 5, "loops": 2}, {"samples": 0}, {"loops": 0}])
def test_mini_n_refuses_rounds_that_do_not_fit(wrong):
    with pytest.raises(RecipeError):
        BestOfMiniN(**wrong)


def test_best_of_n_refuses_what_it_cannot_do():
    with pytest.raises(RecipeError):
        BestOfN(samples=0)
    with pytest.raises(RecipeError):
        BestOfN(choose="worst")
    with pytest.raises(LaunchError, match="needs a scorer"):
        play(BestOfN(samples=1))


def test_together_raises_the_error_itself_and_stops_the_others():
    ended = []

    async def fails():
        await asyncio.sleep(0)
        raise KeyError("x")

    async def waits():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("waits")

    with pytest.raises(KeyError):
        asyncio.run(together([waits(), fails()]))
    assert ended == ["waits"]


def test_utility_counts_right_wrong_and_unanswered():
    outcomes = [True, True, False, None]
    assert utility(outcomes, 0.0) == pytest.approx(0.5)
    assert utility(outcomes, 1.0) == pytest.approx(0.25)
    assert utility(outcomes, 20.0) == pytest.approx(-4.5)
    with pytest.raises(RecipeError):
        utility([], 1.0)
    with pytest.raises(RecipeError):
        utility(outcomes, -1.0)


@pytest.mark.parametrize("odds", [0.0, 1.0, 3.0, 20.0])
def test_break_even_is_the_best_threshold_of_a_calibrated_confidence(odds):
    # 100 questions at each confidence, of which exactly that share is right.
    levels = [0.05, 0.3, 0.5, 0.75, 0.96]
    confidences = [level for level in levels for _ in range(100)]
    correct = [place < round(100 * level) for level in levels for place in range(100)]
    at = {level: utility_at(confidences, correct, threshold=level, odds=odds) for level in [*levels, 1.0]}
    best = utility_at(confidences, correct, threshold=break_even(odds), odds=odds)
    assert best == pytest.approx(max(at.values()))
    assert answers(break_even(odds), break_even(odds))


def test_selective_answers_at_the_threshold_and_withholds_below_it():
    inner = {"policy": "best_of_n", "parameters": {"samples": 2}}
    answer, _ = play(Selective(threshold=0.9, **inner), scorer=Scorer(SCORES))
    assert (answer.answer, answer.finish) == ("7", "stop")
    assert table(answer) == {"think": (3, 4, 0), "answer": (2, 2, 0)}

    answer, _ = play(Selective(threshold=0.91, **inner), scorer=Scorer(SCORES))
    assert (answer.text, answer.answer, answer.finish, answer.confidence) == ("", None, "abstained", 0.9)
    assert answer.notes["withheld"] == "7"
    assert table(answer) == {"think": (0, 7, 0), "answer": (0, 4, 0)}


def test_selective_withholds_what_was_cut_and_refuses_a_policy_without_confidence():
    answer, _ = play(Selective(policy="best_of_n"), traces=[TRACES[3]] * 8, scorer=Scorer({}))
    assert (answer.finish, answer.notes["withheld"]) == ("abstained", None)
    assert table(answer) == {"think": (0, 8, 56)}
    with pytest.raises(RecipeError, match="no confidence"):
        play(Selective(policy="plain"))


def test_selective_checks_the_inner_policy_before_the_first_token():
    engine = ScriptedEngine(lambda context: ["7 "])
    with pytest.raises(LaunchError, match="needs a scorer"):
        asyncio.run(run_policy(Selective(policy="best_of_n"), Ask(engine, "q", Ledger())))
    bare = ScriptedEngine(lambda context: ["7 "], capabilities=())
    with pytest.raises(LaunchError, match="inside selective"):
        asyncio.run(run_policy(Selective(policy="fractured"), Ask(bare, "q", Ledger())))
    assert engine.emitted == bare.emitted == 0
    with pytest.raises(RecipeError, match="unknown policy"):
        Selective(policy="best_of_m")
    with pytest.raises(RecipeError, match="unknown parameter"):
        Selective(policy="best_of_n", parameters={"sample": 2})
    with pytest.raises(RecipeError):
        Selective(policy="plain", threshold=1.5)


def test_one_best_of_n_sample_is_the_plain_completion():
    plain, _ = play(Plain())
    best, _ = play(BestOfN(samples=1), scorer=Scorer(SCORES))
    assert (best.text, best.answer, table(best)) == (plain.text, plain.answer, table(plain))
