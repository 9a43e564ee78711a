"""Fractured sampling, EAGer, hint marginalisation, CoT-decoding: rules against goldens, and exact accounts."""

import asyncio
import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from laconic.inference.engine import Capability, Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedBranch, ScriptedEngine
from laconic.inference.ledger import Account, Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import sample_seed
from laconic.inference.policies.cot_decoding import (
    BAN,
    CotDecoding,
    answer_confidence,
    answer_tokens,
    choose_path,
)
from laconic.inference.policies.eager import Eager, branches, top_entropy
from laconic.inference.policies.fractured import Fractured, cut_points, pass_at_k, places
from laconic.inference.policies.hints import HintMarginalisation, hinted, marginalise
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
SAMPLE = {sample_seed(0, number): number for number in range(100)}
"""Seeds of a question with seed 0, by the number of the sample."""


def words(text, skip=0):
    return [f" {word}" for word in text.split()[skip:]]


def last_word(text):
    return text.split()[-1] if text.split() else None


def play(policy, script, engine_class=ScriptedEngine, max_tokens=30, prompt="q", **ask):
    engine = engine_class(script)
    question = Ask(engine, prompt, Ledger(), sampling=Sampling(max_tokens=max_tokens), **ask)
    answer = asyncio.run(run_policy(policy, question))
    assert answer.ledger.generated == engine.emitted
    assert not engine.open_branches
    return answer, engine


def table(answer):
    """Role -> tokens kept, voted, discarded; roles that were not used left out."""
    rows = answer.ledger.by_role_and_fate()
    return {role: tuple(row.values()) for role, row in rows.items() if any(row.values())}


# --- fractured sampling


def test_pass_at_k_golden():
    entry = GOLDEN["fractured.pass_at_k"]
    assert [pass_at_k(*row) for row in entry["input"]["nck"]] == pytest.approx(entry["output"], abs=1e-8)


@pytest.mark.parametrize(("n", "correct", "k"), [(6, 0, 2), (6, 2, 3), (6, 5, 1), (6, 4, 3), (5, 5, 5)])
def test_pass_at_k_by_enumeration(n, correct, k):
    draws = list(combinations(range(n), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(min(draw) < correct for draw in draws) / len(draws))


@pytest.mark.parametrize("wrong", [(4, 5, 1), (4, 1, 5), (4, 1, 0), (4, -1, 1)])
def test_pass_at_k_refuses_impossible_draws(wrong):
    with pytest.raises(RecipeError):
        pass_at_k(*wrong)


def test_cut_points_and_where_they_can_be_made():
    assert cut_points(10, 4) == [2, 5, 7, 10]
    assert cut_points(3, 4) == [0, 1, 2, 3]
    assert places([2, 5, 7, 10], range(1, 10), 10) == [2, 5, 7, 10]
    assert places([2, 5, 7, 10], [3, 6, 9], 10) == [3, 6, 9, 10]
    assert places([2, 5, 7, 10], [5], 10) == [5, 10]
    assert places([2, 4, 6, 8], [8], 8) == [8]  # a mark at the very end is the whole thinking


# 8 tokens of thinking with the opening tag, the closing one, the answer and the end.
TRUNK = "<think> a b c d e f g </think> 7"


def fractured_script(context):
    """Goes along the trunk; after a forced close, answers 5 early on, then 7."""
    if context.text.endswith("\n\n"):
        return [" 5" if "b" not in context.text else " 7"]
    return words(TRUNK, len(context.text.split()))


def test_fractured_cuts_the_thinking_and_shares_it():
    answer, _ = play(Fractured(traces=1, cuts=4, stride=1), fractured_script)
    # Cut after <think> a; ... c; ... e; and whole.
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", 0.75)
    assert answer.notes["answers"] == ["7", "5", "7", "7"]
    assert answer.text.split() == TRUNK.split()
    assert table(answer) == {"think": (9, 0, 0), "answer": (2, 6, 0)}
    assert answer.ledger.forced == 3
    assert answer.ledger.critical_path == 11


def test_fractured_draws_several_answers_after_each_cut():
    answer, _ = play(Fractured(traces=2, cuts=2, answers=3, stride=1), fractured_script)
    assert answer.notes["answers"] == ["7"] * 12
    assert table(answer) == {"think": (9, 9, 0), "answer": (2, 22, 0)}
    assert answer.ledger.forced == 6


def test_fractured_cuts_at_the_next_multiple_of_the_stride_and_once_at_each():
    answer, _ = play(Fractured(traces=1, cuts=4, stride=3), fractured_script)
    # Cuts after 2, 4, 6, 8 tokens become 3, 6, 6, 8.
    assert answer.notes["answers"] == ["7", "7", "7"]
    assert table(answer) == {"think": (9, 0, 0), "answer": (2, 4, 0)}


def test_fractured_keeps_what_an_answer_after_a_cut_shares_with_a_thinking_that_never_ends():
    answer, _ = play(Fractured(traces=1, cuts=4, stride=1, choose="vote"), fractured_script, max_tokens=8)
    # 8 tokens are the budget: cut after 2 (answer 5), 4 and 6 (answer 7); the whole one has no tokens left.
    assert answer.notes["answers"] == [None, "5", "7", "7"]
    assert (answer.answer, answer.finish, answer.confidence) == ("7", "stop", pytest.approx(2 / 3))
    assert answer.text == " <think> a b c</think>\n\n 7"
    assert table(answer) == {"think": (4, 2, 2), "answer": (2, 4, 0)}
    assert answer.ledger.critical_path == 8


def test_fractured_with_a_scorer_takes_the_best():
    async def shortest(prompt, texts):
        return [-float(len(text)) for text in texts]

    answer, _ = play(Fractured(traces=1, stride=1, choose="best"), fractured_script, scorer=shortest)
    assert (answer.answer, answer.notes["scores"].index(max(answer.notes["scores"]))) == ("5", 1)
    assert table(answer) == {"think": (2, 7, 0), "answer": (2, 6, 0)}


def test_fractured_leaves_a_completion_alone_that_does_not_think():
    answer, _ = play(Fractured(traces=3, stride=1), lambda context: words("it is 7", len(context.text.split())))
    assert (answer.answer, answer.confidence) == ("it is 7", 1.0)
    assert table(answer) == {"answer": (4, 8, 0)}
    assert answer.ledger.forced == 0


@pytest.mark.parametrize(("thinking", "cut"), [("<think> a b c d", "5"), ("<think> a b c d e", "7")])
@pytest.mark.parametrize("close", ["</think>", " </think>"])
def test_fractured_cuts_by_the_thinking_without_its_closing_tag(thinking, cut, close):
    def script(context):
        if context.text.endswith("\n\n"):
            return [" 5" if "b" not in context.text else " 7"]
        return [" 7"] if "</think>" in context.text else [*words(thinking, len(context.text.split())), close, " 7"]

    answer, _ = play(Fractured(traces=1, cuts=2, stride=1), script)
    # Half of 5 tokens is 2, of 6 it is 3: one more or one less would be seen.
    assert answer.notes["answers"] == ["7", cut]


def test_fractured_keeps_every_completion_within_its_budget():
    def script(context):
        endless = [" x"] * 50
        return endless if "</think>" in context.text else words(TRUNK, len(context.text.split()))[:9] + endless

    answer, _ = play(Fractured(traces=1, cuts=2, stride=1), script, max_tokens=12)
    # Whole: 9 tokens of thinking and 3 more; after the cut: 4 and 8 more.
    assert (answer.finish, answer.ledger.critical_path) == ("length", 12)
    assert table(answer) == {"think": (9, 0, 0), "answer": (3, 0, 8)}


def test_fractured_refuses_what_it_cannot_do():
    engine = ScriptedEngine(fractured_script)
    with pytest.raises(LaunchError, match="needs a scorer"):
        asyncio.run(run_policy(Fractured(choose="best"), Ask(engine, "q", Ledger())))
    assert engine.emitted == 0
    for wrong in ({"traces": 0}, {"cuts": 0}, {"answers": 0}, {"stride": 0}, {"choose": "all"}):
        with pytest.raises(RecipeError):
            Fractured(**wrong)


# --- EAGer


def test_eager_forks_strictly_above_the_threshold_and_below_the_most():
    assert branches(2.01, threshold=2.0, sequences=3, most=4)
    assert not branches(2.0, threshold=2.0, sequences=1, most=4)
    assert not branches(9.0, threshold=2.0, sequences=4, most=4)
    assert not branches(None, threshold=2.0, sequences=1, most=4)


def test_top_entropy_renormalises():
    assert top_entropy([math.log(0.1)] * 4) == pytest.approx(math.log(4))
    assert top_entropy([math.log(0.3), math.log(0.1)]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert top_entropy([0.0, -math.inf]) == 0.0


def uncertain_at(*places, tails):
    """Says <think> and letters; the entropy is 3 at these places of a sequence, 2 elsewhere; tails by branch."""

    def script(context):
        done = len(context.text.split())
        said = tails[context.branch].split()[done:]
        return [Token(f" {word}", entropy=3.0 if done + k in places else 2.0) for k, word in enumerate(said)]

    return script


TAILS = ["<think> a b </think> 7", "<think> x d e </think> 8", "<think> x d f </think> 8"]


def test_eager_shares_what_comes_before_the_uncertain_token():
    answer, engine = play(Eager(sequences=2, threshold=2.0), uncertain_at(1, 2, tails=TAILS))
    assert answer.notes == {"sequences": 2, "forked_at": [3.0], "answers": ["7", "8"]}
    assert (answer.answer, answer.confidence, answer.finish) == ("7", 0.5, "stop")
    # Shared: <think>. Then a b </think> 7 end, and x d e </think> 8 end: the second one drew its own token there.
    assert table(answer) == {"think": (4, 4, 0), "answer": (2, 2, 0)}
    assert engine.emitted == 12
    # The second sequence began after the first one's <think> a.
    assert answer.ledger.critical_path == 8


def test_eager_forks_of_forks_vote():
    script = uncertain_at(1, 2, tails=[TAILS[0], TAILS[1], TAILS[2], TAILS[2]])
    answer, _ = play(Eager(sequences=3, threshold=2.0), script)
    # The token that the fork draws anew is as uncertain, and forks nothing; of the first one's b and the second one's
    # d, which are uncertain too, b comes first.
    assert answer.notes == {"sequences": 3, "forked_at": [3.0, 3.0], "answers": ["7", "8", "8"]}
    assert (answer.answer, answer.confidence) == ("8", pytest.approx(2 / 3))


def test_eager_forks_a_fork_after_its_first_token():
    tails = ["<think> a </think> 7", "<think> x d e g </think> 8", "<think> x d e h </think> 9"]
    answer, _ = play(Eager(sequences=3, threshold=2.0), uncertain_at(1, 4, tails=tails))
    assert answer.notes["answers"] == ["7", "8", "9"]
    # <think>, then a, x d e, g and h with their closing tags.
    assert answer.ledger.tokens("think") == 1 + 2 + 3 + 2 + 2


def test_eager_gives_what_a_question_did_not_use_to_one_that_reached_the_most():
    everywhere = uncertain_at(*range(1, 9), tails=["<think> a b c d e f </think> 7"] * 30)
    calm = uncertain_at(tails=["<think> a </think> 7"] * 30)
    shared, alone = Eager(sequences=3, share=True), Eager(sequences=3)
    assert play(shared, calm)[0].notes["sequences"] == 1
    # 3 of its own and the 2 that are left over; once these are used there are no more.
    assert play(shared, everywhere)[0].notes["sequences"] == 5
    assert play(shared, everywhere)[0].notes["sequences"] == 3
    assert play(alone, calm)[0].notes["sequences"] == 1
    assert play(alone, everywhere)[0].notes["sequences"] == 3
    assert play(Eager(sequences=3, share=True), everywhere)[0].notes["sequences"] == 3


def test_eager_at_the_threshold_is_one_sequence():
    answer, _ = play(Eager(sequences=8, threshold=3.0), uncertain_at(1, 2, tails=TAILS))
    assert answer.notes["sequences"] == 1
    assert table(answer) == {"think": (4, 0, 0), "answer": (2, 0, 0)}


def test_eager_does_not_fork_at_the_last_token_of_the_budget():
    answer, _ = play(Eager(sequences=8), uncertain_at(2, tails=TAILS), max_tokens=3)
    assert (answer.notes["sequences"], answer.finish) == (1, "length")
    assert table(answer) == {"think": (3, 0, 0)}
    answer, _ = play(Eager(sequences=8), uncertain_at(2, tails=TAILS), max_tokens=4)
    assert answer.notes["sequences"] == 2
    # The budget of a sequence holds what it shares.
    assert answer.ledger.generated == 6


def test_eager_forks_in_answers_without_thinking():
    script = uncertain_at(0, tails=["x 7", "x 8"])
    answer, _ = play(Eager(sequences=2), script, extract=lambda text: text.split()[-1])
    assert answer.notes["answers"] == ["7", "8"]
    assert table(answer) == {"answer": (3, 3, 0)}


def test_eager_needs_entropies_and_a_temperature():
    few = set(Capability) - {Capability.ENTROPY}
    with pytest.raises(LaunchError, match="entropies"):
        asyncio.run(run_policy(Eager(), Ask(ScriptedEngine(lambda c: [], capabilities=few), "q", Ledger())))
    ask = Ask(ScriptedEngine(lambda c: []), "q", Ledger(), sampling=Sampling(temperature=0.0))
    with pytest.raises(RecipeError, match="temperature"):
        asyncio.run(run_policy(Eager(), ask))
    with pytest.raises(RecipeError):
        Eager(sequences=0)


def test_eager_draws_another_token_at_the_uncertain_place_if_told_to(on_tiny_model):
    async def work(engine):
        pairs = []
        for policy in (Eager(sequences=2, threshold=0.5), Eager(sequences=2, threshold=0.5, differ=True)):
            for seed in range(8):
                # Nearly greedy: both sequences would say the same.
                ask = Ask(engine, "3 + 4 =", Ledger(), sampling=Sampling(temperature=0.01, max_tokens=8), seed=seed)
                opened = []
                ask.fork = recorded(ask.fork, opened)
                answer = await run_policy(policy, ask)
                (branch, fork, shared) = opened[0]
                pairs.append((branch.strand.ids[shared], fork.strand.ids[shared], answer.ledger.generated))
        return pairs[:8], pairs[8:]

    def recorded(fork, opened):
        async def make(branch, *, back):
            made = await fork(branch, back=back)
            opened.append((branch, made, len(made.strand.ids)))
            return made

        return make

    free, differing = on_tiny_model(work)
    assert all(one == other for one, other, _ in free)
    assert all(one != other for one, other, _ in differing)


# --- hint marginalisation


def test_marginalise_is_the_law_of_total_probability():
    assert marginalise([0.5, 0.5], [[0, 1], [1, 1]], answers=2) == [0.25, 0.75]
    assert marginalise([0.75, 0.25], [[2, 2, 0, 1], [1]], answers=3) == pytest.approx([0.1875, 0.4375, 0.375])
    # A hint that led nowhere keeps its mass; nothing is lost.
    assert marginalise([0.75, 0.25], [[], [0]], answers=2) == [1.0, 0.0]


def test_hints_go_to_the_end_of_the_last_message():
    conversation = [{"role": "user", "content": "a"}, {"role": "user", "content": "How many?"}]
    assert hinted(conversation, "7") == [conversation[0], {"role": "user", "content": hinted("How many?", "7")}]
    assert conversation[1]["content"] == "How many?"


def hint_script(starts):
    def script(context):
        starts.append((context.prompt, SAMPLE[context.seed]))
        if context.prompt == "q":
            return [[" 7"], [" 7"], [" 8"], [" 8"]][SAMPLE[context.seed]]
        if context.prompt == hinted("q", "7"):
            return [[" 7"], [" 8"]][SAMPLE[context.seed] % 2]
        return [" 8"]

    return script


def test_hint_marginalisation_moves_the_mass_where_hints_lead():
    starts = []
    answer, _ = play(HintMarginalisation(samples=4, per_hint=2, rounds=2), hint_script(starts))
    assert answer.notes == {"answers": ["7", "8"], "history": [[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]}
    assert (answer.answer, answer.confidence, answer.finish) == ("8", 0.875, "stop")
    seven, eight = hinted("q", "7"), hinted("q", "8")
    assert starts[:4] == [("q", seed) for seed in range(4)]
    assert starts[4:8] == [(seven, 4), (seven, 5), (eight, 4), (eight, 5)]
    assert starts[8:] == [(seven, 6), (seven, 7), (eight, 6), (eight, 7)]
    assert table(answer) == {"answer": (2, 22, 0)}
    assert answer.ledger.critical_path == 6  # three rounds of two tokens


def test_hint_marginalisation_without_rounds_is_the_majority():
    answer, _ = play(HintMarginalisation(samples=3, rounds=0), hint_script([]))
    assert (answer.answer, answer.confidence) == ("7", pytest.approx(2 / 3))


def test_hint_marginalisation_returns_the_last_completion_with_the_answer():
    def script(context):
        return [" 8"] if context.prompt == "q" else [" again", " 8"]

    answer, _ = play(HintMarginalisation(samples=2, per_hint=1), script, extract=last_word)
    assert (answer.text, answer.answer) == (" again 8", "8")
    assert table(answer) == {"answer": (3, 4, 0)}


def test_hint_marginalisation_gives_no_hint_without_mass():
    # 7 is certain and leads to 8 alone: the second round does not ask about 7.
    starts = []

    def script(context):
        starts.append(context.prompt)
        return [" 7"] if context.prompt == "q" else [" 8"]

    answer, _ = play(HintMarginalisation(samples=1, per_hint=1, rounds=2), script)
    assert starts == ["q", hinted("q", "7"), hinted("q", "8")]
    assert answer.notes["history"][-1] == [0.0, 1.0]


def test_hint_marginalisation_that_read_nothing_stops_there():
    answer, _ = play(HintMarginalisation(samples=2), lambda context: words("<think> a b c d"), max_tokens=3)
    assert (answer.answer, answer.finish) == (None, "length")
    assert table(answer) == {"think": (3, 0, 3)}
    with pytest.raises(RecipeError):
        HintMarginalisation(per_hint=0)


# --- CoT-decoding


def test_cot_confidence_golden():
    entry = GOLDEN["cotdecoding.delta"]
    assert answer_confidence(entry["input"]["per_step_probs"]) == pytest.approx(entry["output"], abs=1e-9)
    assert answer_confidence([[0.1, 0.6, 0.3]]) == pytest.approx(0.3)  # in any order
    assert answer_confidence([[0.8]]) == pytest.approx(0.8)
    with pytest.raises(RecipeError):
        answer_confidence([])


def test_answer_tokens_are_those_of_the_last_occurrence():
    assert answer_tokens(["4", "2", " so ", "42", "!"], "42") == range(3, 4)
    assert answer_tokens(["x4", "2y"], "42") == range(0, 2)
    assert answer_tokens(["", "4", "", "2", ""], "42") == range(1, 4)
    assert answer_tokens(["a", "b"], "42") == range(0, 2)


def test_choose_path_by_the_surest_or_by_the_sum():
    answers, sure = ["7", "8", "8"], [0.6, 0.4, 0.5]
    assert choose_path(answers, sure) == 0
    assert choose_path(answers, sure, how="sum") == 2
    assert choose_path(["7", "8"], [0.5, 0.5]) == choose_path(["7", "8"], [0.5, 0.5], how="sum") == 0


def step(text, p1, p2, number=None):
    return Token(text, id=number, top=(math.log(p1), math.log(p2)))


# The first token, then the rest; the margin counts at the answer, the last word.
PATHS = {
    1: [step("so", 0.9, 0.05, 1), step(" 7", 0.5, 0.4)],
    2: [step("as", 0.2, 0.1, 2), step(" it", 0.9, 0.1), step(" 8", 0.8, 0.1)],
    3: [step("or", 0.1, 0.1, 3), step(" 7", 0.9, 0.1)],
}


class BiasedBranch(ScriptedBranch):
    """Obeys a bias on first tokens: the likeliest one that is not banned."""

    async def generate(self, *, bias=None, **given):
        self.engine.biases.append(dict(bias or {}))
        return await super().generate(**given)


class BiasedEngine(ScriptedEngine):
    def __init__(self, paths):
        super().__init__(self.say)
        self.paths, self.biases, self.temperatures = paths, [], []

    def open(self, prompt, *, ledger, sampling=None, seed=0):
        self.temperatures.append(sampling.temperature)
        return BiasedBranch(self, prompt, seed, Account(ledger, prompt=1))

    def say(self, context):
        if not context.text:
            banned = {number for number, value in self.biases[-1].items() if value == BAN}
            free = [number for number in self.paths if number not in banned] or list(self.paths)
            return self.paths[free[0]]
        path = next(path for path in self.paths.values() if context.text.startswith(path[0].text))
        done = next(k for k in range(len(path) + 1) if "".join(token.text for token in path[:k]) == context.text)
        return path[done:]


def test_cot_decoding_follows_the_likeliest_first_tokens_and_measures_answers_alone():
    answer, engine = play(CotDecoding(paths=3), PATHS, BiasedEngine, extract=last_word)
    assert engine.biases[:3] == [{}, {1: BAN}, {1: BAN, 2: BAN}]
    assert engine.biases[3:] == [{}] * 3
    assert engine.temperatures == [0.0] * 3
    assert answer.notes["answers"] == ["7", "8", "7"]
    assert answer.notes["confidences"] == pytest.approx([0.1, 0.7, 0.8])
    assert (answer.text, answer.answer, answer.finish) == ("or 7", "7", "stop")
    assert answer.confidence == pytest.approx(0.8)
    assert table(answer) == {"answer": (3, 3 + 4, 0)}
    assert answer.ledger.critical_path == 5  # three first tokens, one after the other, and two more of the last path


def test_cot_decoding_sums_over_equal_answers():
    paths = {**PATHS, 3: [PATHS[3][0], step(" 7", 0.75, 0.1)]}
    answer, _ = play(CotDecoding(paths=3, choose="sum"), paths, BiasedEngine, extract=last_word)
    assert (answer.text, answer.confidence) == ("or 7", pytest.approx(0.65))
    answer, _ = play(CotDecoding(paths=3, choose="max"), paths, BiasedEngine, extract=last_word)
    assert answer.answer == "8"


def test_cot_decoding_ends_where_no_first_token_is_left():
    answer, _ = play(CotDecoding(paths=10), PATHS, BiasedEngine, extract=last_word)
    assert len(answer.notes["answers"]) == 3
    assert table(answer) == {"answer": (3, 7, 1)}


def test_cot_decoding_after_thinking():
    paths = {
        1: [step("a", 0.5, 0.4, 1), step(" 9", 0.9, 0.1), step(" </think>", 0.9, 0.1), step(" 7", 0.5, 0.3), EOS],
        2: [step("b", 0.4, 0.4, 2), step(" c", 0.9, 0.1), step(" d", 0.9, 0.1), step(" e", 0.9, 0.1)],
    }
    answer, _ = play(CotDecoding(paths=2), paths, BiasedEngine, max_tokens=5, opens_thinking=True)
    assert (answer.text, answer.answer, answer.confidence) == ("a 9 </think> 7", "7", pytest.approx(0.2))
    # The other path ended without closing its thinking: no answer, no vote.
    assert table(answer) == {"think": (3, 0, 5), "answer": (2, 0, 0)}


def test_cot_decoding_takes_all_tokens_after_the_thinking_for_an_answer_in_other_words():
    path = [step("a", 0.9, 0.0001, 1), step(" </think>", 0.9, 0.1), step(" se", 0.5, 0.1), step(" ven", 0.4, 0.2), EOS]
    answer, _ = play(
        CotDecoding(paths=1), {1: path}, BiasedEngine, opens_thinking=True, extract=lambda text: str(len(text))
    )
    assert answer.confidence == pytest.approx(0.3)


def test_cot_decoding_keeps_paths_within_the_budget():
    answer, _ = play(CotDecoding(paths=2), PATHS, BiasedEngine, max_tokens=3, extract=last_word)
    # "so 7" and its end fit; "as it 8" is cut before its end.
    assert answer.notes["answers"] == ["7"]
    assert table(answer) == {"answer": (3, 0, 3)}


def test_cot_decoding_needs_ids_and_probabilities():
    plain = {1: [step("so", 0.9, 0.05, 1), Token(" 7")]}
    with pytest.raises(LaunchError, match="probabilities"):
        play(CotDecoding(paths=1), plain, BiasedEngine, extract=last_word)
    with pytest.raises(LaunchError, match="without its id"):
        play(CotDecoding(paths=1), {1: [replace(PATHS[1][0], id=None)]}, BiasedEngine)
    with pytest.raises(RecipeError):
        CotDecoding(choose="mean")
