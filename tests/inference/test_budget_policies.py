"""Think budgets, effort and boosting: golden vectors, exact accounts, and bounds that are off being `plain`."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.boost import EndOfThinkBoost, boost_at
from laconic.inference.policies.budget import ThinkBudget, forced_calls
from laconic.inference.policies.effort import EFFORTS, EffortSwitch, effort_fields, thinking_tokens
from laconic.inference.policies.plain import Plain
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
S1 = [entry for name, entry in GOLDEN.items() if name.startswith("s1.")]
CLOSE = "</think>"
WORDS = ["<think>", " a", " b", " c", " d", " e", CLOSE]


def talk(words, answer=("7", " yes", EOS)):
    """A model that says `words` up to its closing tag, whatever is put in between, and then the answer."""

    def script(context):
        if CLOSE in context.text:
            return answer[context.generated.get("answer", 0) :]
        return words[sum(context.generated.values()) :]

    return script


class Recorder(ScriptedEngine):
    """Writes down what every generation was asked for, and the text it went on from."""

    def open(self, *args, **kwargs):
        branch = super().open(*args, **kwargs)
        generate = branch.generate
        self.calls = []

        async def recorded(**asked):
            self.calls.append({"text": branch.text, **asked})
            return await generate(**asked)

        branch.generate = recorded
        return branch


def ask_of(engine, budget=1000, **kwargs):
    return Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=budget), **kwargs)


def run(policy, ask):
    return asyncio.run(run_policy(policy, ask))


def table(ledger):
    rows = ledger.by_role_and_fate()
    return {(role, fate): n for role, fates in rows.items() for fate, n in fates.items() if n}


@pytest.mark.parametrize("entry", S1, ids=lambda entry: entry["id"])
def test_s1_asks_for_exactly_these_budgets(entry):
    given_, expected = entry["input"], entry["output"]
    *rounds, last = given_["script_lengths"]
    words = []
    for letter, length in zip("abc", rounds, strict=False):
        words += [f"{letter}0", *(f" {letter}{n}" for n in range(1, length)), CLOSE]
    engine = Recorder(talk(words, ("x",) * (last - 1) + (EOS,)))
    policy = ThinkBudget(
        maximum=given_["MAX_TOKENS_THINKING"], ignored_ends=given_["NUM_IGNORE"], answer_tokens=32768, switches=["Wait"]
    )
    answer = run(policy, ask_of(engine, 10**6, opens_thinking=True))
    asked = [(call["max_tokens"], call.get("min_tokens", 0)) for call in engine.calls]
    assert asked == [(call["max_tokens"], call["min_tokens"]) for call in expected]
    for call, golden in list(zip(engine.calls, expected, strict=True))[1:]:
        assert call["text"].removesuffix(CLOSE).endswith(golden["prompt_tail"])
    assert answer.finish == "stop"
    # Every word and every closing tag was generated, kept or not; the put-in words were not.
    assert answer.ledger.generated == sum(given_["script_lengths"]) + len(rounds)
    assert answer.notes["think_tokens"] == sum(rounds)
    maximum = given_["MAX_TOKENS_THINKING"]
    calls = forced_calls(rounds, ignored_ends=given_["NUM_IGNORE"], maximum=maximum)
    assert calls == [call["max_tokens"] for call in expected[:-1]]


def test_forced_calls_end_when_nothing_is_left():
    assert forced_calls([10, 7, 5], ignored_ends=2, maximum=17) == [17, 7]
    assert forced_calls([30, 7], ignored_ends=1, maximum=17) == [17]


def test_thinkdeeper_minimum_puts_a_phrase_in():
    entry = GOLDEN["thinkdeeper.min_forces_wait"]
    spoken = entry["input"]["scripted_tokens"]
    words = [token if token == CLOSE else token + " " for token in spoken[:7]]
    engine = Recorder(talk(words, ("w10 ", EOS)))
    policy = ThinkBudget(minimum=4, maximum=50, switches=["Wait,", "Alternatively,"], opens=True)
    answer = run(policy, ask_of(engine, seed=entry["input"]["random.seed"]))
    golden = entry["output"]["text"].replace("<think>\n", "<think>").replace("<eos>", "")
    assert answer.text == golden
    assert answer.notes["thoughts"] == entry["output"]["thought_count"]
    assert answer.notes["think_tokens"] + answer.notes["ignored_ends"] == entry["output"]["thinking_tokens_reported"]
    assert answer.notes["forced"] == ["<think>", "Alternatively,"]
    assert answer.ledger.generated == entry["output"]["forward_passes"]


def test_thinkdeeper_maximum_forces_the_end():
    entry = GOLDEN["thinkdeeper.max_forces_end"]
    engine = Recorder(talk(["w5 ", "w6 ", "w7 ", "w8 ", "w9 "], ("w10 ", EOS)))
    answer = run(ThinkBudget(maximum=4, opens=True), ask_of(engine))
    assert answer.text == entry["output"]["text"].replace("<think>\n", "<think>").replace("<eos>", "")
    assert answer.notes["think_tokens"] == entry["output"]["thinking_tokens_reported"]
    assert answer.finish == "policy_stop"
    # One decode step less than the released code, which throws one away.
    assert answer.ledger.generated == entry["output"]["forward_passes"] - 1


def test_ends_below_the_minimum_are_dropped_and_an_end_at_it_stands():
    words = ["<think>", " a", CLOSE, " b", CLOSE, " c", CLOSE]
    for minimum, dropped in ((2, 0), (3, 1), (4, 2)):
        answer = run(ThinkBudget(minimum=minimum), ask_of(ScriptedEngine(talk(words))))
        assert answer.notes["ignored_ends"] == dropped
        assert answer.text == "<think> a" + "".join(["Wait b", "Wait c"][:dropped]) + CLOSE + "7 yes"


def test_exact_account_of_a_cut():
    engine = ScriptedEngine(talk(WORDS))
    answer = run(ThinkBudget(maximum=3, transition=" So: "), ask_of(engine))
    assert answer.text == "<think> a b So: </think>7 yes"
    assert (answer.answer, answer.finish) == ("7 yes", "policy_stop")
    assert table(answer.ledger) == {("think", "kept"): 3, ("answer", "kept"): 3}
    assert (answer.ledger.forced, answer.ledger.critical_path, engine.emitted) == (2, 6, 6)
    assert not engine.open_branches


def test_a_maximum_that_is_just_enough_cuts_nothing():
    assert run(ThinkBudget(maximum=7), ask_of(ScriptedEngine(talk(WORDS)))).finish == "stop"
    assert run(ThinkBudget(maximum=6), ask_of(ScriptedEngine(talk(WORDS)))).finish == "policy_stop"


def test_no_thinking_at_all():
    answer = run(ThinkBudget(maximum=0), ask_of(ScriptedEngine(talk(WORDS))))
    assert answer.text == "<think></think>7 yes"
    assert table(answer.ledger) == {("answer", "kept"): 3}


@pytest.mark.parametrize("hook", [True, False])
def test_thoughts_are_counted_to_the_last(hook):
    capabilities = [each for each in Capability if hook or each != Capability.TOKEN_HOOK]
    words = ["<think>", " a", " Wait", ", b", " Wait", ", c", CLOSE]
    for thoughts, text in ((1, "<think> a Wait"), (2, "<think> a Wait, b Wait"), (3, "<think> a Wait, b Wait, c")):
        engine = ScriptedEngine(talk(words), capabilities=capabilities)
        answer = run(ThinkBudget(thoughts=thoughts), ask_of(engine))
        assert answer.text == text + CLOSE + "7 yes"
        assert answer.finish == ("policy_stop" if thoughts < 3 else "stop")


@pytest.mark.parametrize("hook", [True, False])
def test_a_put_in_phrase_is_a_thought_and_phrases_survive_dropped_ends(hook):
    capabilities = [each for each in Capability if hook or each != Capability.TOKEN_HOOK]
    words = ["<think>", " Wait", " a", CLOSE, " b", CLOSE]
    engine = ScriptedEngine(talk(words), capabilities=capabilities)
    answer = run(ThinkBudget(thoughts=2, ignored_ends=1), ask_of(engine))
    assert answer.text == "<think> Wait aWait</think>7 yes"
    assert answer.notes["thoughts"] == 2


def test_a_closing_tag_of_many_tokens_is_seen_across_the_minimum():
    words = ["<think>", " a", " b", "</", "think", ">"]
    answer = run(ThinkBudget(minimum=4), ask_of(ScriptedEngine(talk(words))))
    assert answer.text == "<think> a b</think>7 yes"
    assert table(answer.ledger) == {("think", "kept"): 6, ("answer", "kept"): 3}


def test_a_sequence_that_ends_inside_its_thinking_is_closed_under_a_bound_only():
    words = ["<think>", " a", EOS]
    assert run(ThinkBudget(), ask_of(ScriptedEngine(talk(words)))).text == "<think> a"
    answer = run(ThinkBudget(maximum=50), ask_of(ScriptedEngine(talk(words))))
    assert (answer.text, answer.finish) == ("<think> a</think>7 yes", "stop")
    assert answer.ledger.generated == 6


@pytest.mark.parametrize(
    "policy", [ThinkBudget(maximum=1), ThinkBudget(ignored_ends=2), EffortSwitch(effort="minimal")]
)
def test_an_answer_without_thinking_is_left_alone(policy):
    words = ["It", " is", " 7", EOS]
    answer = run(policy, ask_of(ScriptedEngine(talk(words))))
    assert (answer.text, answer.finish) == ("It is 7", "stop")
    assert table(answer.ledger) == {("answer", "kept"): 4}


def test_an_engine_that_ignores_the_budget_is_found_out():
    class Deaf(ScriptedEngine):
        def open(self, *args, **kwargs):
            branch = super().open(*args, **kwargs)
            generate = branch.generate
            branch.generate = lambda **asked: generate(**{**asked, "max_tokens": 1000})
            return branch

    engine = Deaf(talk(WORDS))
    with pytest.raises(LaunchError, match="7 tokens where at most 3"):
        run(ThinkBudget(maximum=3), ask_of(engine))
    assert not engine.open_branches


scripts = st.builds(
    lambda opens, middle, closes, answer: [*opens, *middle, *closes, *answer, EOS],
    st.sampled_from([[], ["<think>"], ["<th", "ink>"]]),
    st.lists(st.sampled_from([" a", " Wait", ".", "\n\n", "<", "</"]), max_size=12),
    st.sampled_from([[], [CLOSE], ["</", "think>"]]),
    st.lists(st.sampled_from([" 7", " 8"]), max_size=4),
)


@settings(deadline=None)
@given(scripts, st.integers(1, 24), st.booleans())
def test_without_a_bound_it_is_plain(tokens, budget, opens):
    def script(context):
        return tokens[sum(context.generated.values()) :]

    def answer(policy):
        return run(policy, ask_of(ScriptedEngine(script), budget, opens_thinking=opens))

    plain = answer(Plain())
    for policy in (ThinkBudget(), EndOfThinkBoost(close_id=1, boost=0.0, growth=0.0)):
        other = answer(policy)
        assert (other.text, other.answer, other.finish) == (plain.text, plain.answer, plain.finish)
        assert table(other.ledger) == table(plain.ledger)
        assert other.ledger.forced == 0


@settings(deadline=None)
@given(scripts, st.integers(1, 30), st.integers(0, 8), st.integers(0, 8), st.integers(0, 3), st.booleans())
def test_budgets_hold_and_nothing_is_lost(tokens, budget, minimum, more, ignored, opens):
    engine = ScriptedEngine(lambda context: tokens[sum(context.generated.values()) :])
    policy = ThinkBudget(minimum=minimum, maximum=minimum + more, ignored_ends=ignored)
    answer = run(policy, ask_of(engine, budget, opens_thinking=opens))
    assert answer.notes["think_tokens"] <= minimum + more
    assert engine.emitted == answer.ledger.generated <= budget
    assert not engine.open_branches


def test_efforts_in_every_dialect():
    assert effort_fields("openai", "xhigh") == {"reasoning_effort": "xhigh"}
    assert effort_fields("openrouter", "none") == {"reasoning": {"effort": "none"}}
    assert effort_fields("gpt-oss", "high") == {"chat_template_kwargs": {"reasoning_effort": "high"}}
    for switch in ("enable_thinking", "thinking"):
        on = [effort_fields(switch, effort)["chat_template_kwargs"][switch] for effort in EFFORTS]
        assert on == [False, True, True, True, True, True]


def test_what_cannot_be_said_is_refused():
    for dialect, effort in (("gpt-oss", "none"), ("gpt-oss", "xhigh"), ("openai", "max"), ("latin", "low")):
        with pytest.raises(RecipeError):
            effort_fields(dialect, effort)


def test_effort_is_a_share_of_the_budget():
    words = ["<think>", *[" a"] * 100]
    for effort, share in (("minimal", 2), ("low", 4), ("medium", 10), ("high", 16), ("xhigh", 19)):
        answer = run(EffortSwitch(effort=effort), ask_of(ScriptedEngine(talk(words, ("7",))), 20))
        assert answer.ledger.tokens("think") == share == thinking_tokens(effort, 20)
    answer = run(EffortSwitch(effort="none"), ask_of(ScriptedEngine(talk(words)), 20))
    assert answer.text == "<think></think>7 yes"


class Biased(ScriptedEngine):
    """A model whose closing tag trails by 2.5 nats: it closes its thinking once the bias makes up for that."""

    def open(self, *args, **kwargs):
        branch = super().open(*args, **kwargs)
        generate = branch.generate
        self.calls = []

        async def biased(*, bias=None, **asked):
            self.calls.append((asked["max_tokens"], bias))
            self.closes = (bias or {}).get(9, 0.0) > 2.5
            return await generate(**asked)

        branch.generate = biased
        return branch


def test_a_growing_boost_closes_the_thinking():
    def script(context):
        if CLOSE in context.text:
            return ["7", EOS]
        if "<think>" not in context.text:
            return ["<think>", *[" a"] * 50]
        return [CLOSE] if engine.closes else [" a"] * 50

    engine = Biased(script)
    policy = EndOfThinkBoost(close_id=9, boost=1.0, growth=0.5, after=4, every=2)
    answer = run(policy, ask_of(engine, 100))
    assert engine.calls[:5] == [(2, None), (2, None), (2, {9: 1.0}), (2, {9: 2.0}), (2, {9: 3.0})]
    assert engine.calls[5] == (91, None)
    assert answer.text == "<think>" + " a" * 7 + CLOSE + "7"
    assert table(answer.ledger) == {("think", "kept"): 9, ("answer", "kept"): 2}


def test_a_constant_boost_is_one_call_and_begins_where_it_should():
    engine = Biased(lambda context: talk(WORDS)(context))
    run(EndOfThinkBoost(close_id=9, boost=1.0, after=3, every=2), ask_of(engine, 100))
    assert engine.calls == [(2, None), (1, None), (97, {9: 1.0}), (93, None)]
    assert [boost_at(tokens, boost=1.0, growth=0.5, after=4) for tokens in (3, 4, 6)] == [0.0, 1.0, 2.0]


def test_needs_a_bias():
    engine = ScriptedEngine(talk(WORDS), capabilities=[Capability.PREFIX, Capability.STOP])
    with pytest.raises(LaunchError, match="additive bias"):
        run(EndOfThinkBoost(close_id=9, boost=1.0), ask_of(engine))
    assert engine.emitted == 0


@pytest.mark.parametrize(
    ("policy", "parameters"),
    [
        (ThinkBudget, {"minimum": -1}),
        (ThinkBudget, {"minimum": 5, "maximum": 4}),
        (ThinkBudget, {"maximum": -1}),
        (ThinkBudget, {"ignored_ends": -1}),
        (ThinkBudget, {"thoughts": 0}),
        (ThinkBudget, {"answer_tokens": 0}),
        (ThinkBudget, {"switches": "Wait"}),
        (ThinkBudget, {"switches": []}),
        (EffortSwitch, {"effort": "max"}),
        (EffortSwitch, {"effort": "low", "shares": {}}),
        (EndOfThinkBoost, {"close_id": 1, "boost": 1.0, "every": 0}),
    ],
)
def test_wrong_parameters_are_refused(policy, parameters):
    with pytest.raises(RecipeError):
        policy(**parameters)
