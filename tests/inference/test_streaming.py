"""What a listener hears is always a beginning of what is returned, whatever the policy; and it hears it in time."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.base import find
from laconic.inference.policies.best_of import BestOfN
from laconic.inference.policies.boost import EndOfThinkBoost
from laconic.inference.policies.budget import ThinkBudget
from laconic.inference.policies.cascade import Cascade, ConfidenceCascade
from laconic.inference.policies.consistency import AnswerConsistency
from laconic.inference.policies.draft_target import DraftTarget
from laconic.inference.policies.effort import EffortSwitch
from laconic.inference.policies.mur import Mur
from laconic.inference.policies.pats import Pats
from laconic.inference.policies.plain import Plain
from laconic.inference.policies.risk import RiskControlledStop
from laconic.inference.policies.routing import DifficultyProbe, HybridRouter, SemanticSwitch
from laconic.inference.policies.selective import Selective
from laconic.inference.policies.short import FirstFinish, ShortMK
from laconic.inference.policies.voting import SelfConsistency
from laconic.inference.retrieval.documents import Document, Hit

PIECES = ["a", "b ", "\n\n", "Wait", " 7", ". ", "<think>", "</thi", "nk>", "</think>", r"\boxed{7}", "}", ""]
SEARCHES = ["<search>", "</search>", "<answer>", "</answer>"]
# Small enough for seconds; where a policy has a parameter without a default, it is here.
SMALL = {
    "ab_mcts": {"trials": 3, "batch": 2},
    "best_of_mini_n": {"samples": 2, "loops": 2},
    "best_of_n": {"samples": 2},
    "cot_decoding": {"paths": 2},
    "deepconf_offline": {"samples": 3, "window": 2, "top_k": 2},
    "deepconf_online": {"samples": 3, "warmup": 1, "window": 2, "top_k": 2},
    "eager": {"sequences": 3, "threshold": 0.5},
    "end_of_think_boost": {"close_id": 9, "boost": 1.0, "growth": 0.5, "every": 3},
    "fractured": {"traces": 2, "cuts": 2, "stride": 2},
    "hint_marginalisation": {"samples": 2, "per_hint": 1},
    "named_budget": {"budget": 5},
    "no_wait": {"token_ids": [3]},
    "phi_decoding": {"beams": 2, "rollouts": 2, "max_steps": 2, "clusters": 2, "foresight_tokens": 4},
    "self_consistency": {"samples": 3},
    "self_eval_beam": {"beams": 2, "samples": 2, "max_steps": 3},
    "short_mk": {"k": 3, "m": 1},
    "think_budget": {"minimum": 4, "maximum": 9, "ignored_ends": 1, "thoughts": 3},
}
MORE = {  # further ways of the same policies
    "think_budget": [{}, {"maximum": 0}, {"minimum": 6, "opens": True, "transition": " So."}],
    "short_mk": [{"k": 3, "m": 2}, {"k": 2, "m": 1, "compare": "length"}],
    "selective": [{"policy": "best_of_n", "parameters": {"samples": 2}, "threshold": 0.0}],
    "risk_controlled_stop": [{"slope": 0.5, "abstains": True, "parameters": {"at": ["b"]}}],
    "answer_consistency": [{"threshold": 1, "answer_by": "probe", "concurrent": True}],
    "draft_target": [{"threshold": 0.4, "max_steps": 2}],
    "search_episode": [{"max_searches": 1, "max_invalid": 9}, {"searches_enabled": False, "turn_tokens": 5}],
    "stable_search": [{"agree": 1, "probe_tokens": 5}],
    "self_answer_search": [{"threshold": 0.3}],
    "compute_optimal": [{"table": [{"policy": "plain"}, {"policy": "think_budget"}], "probe_tokens": 2}],
}
ELSEWHERE = {"calibrated"}
"""Policies that only run what another one of these is."""
ABLE = {name for name, item in POLICIES.items() if item.requires <= ScriptedEngine(iter).capabilities}
WAYS = {
    f"{name}-{number}": (name, given)
    for name in sorted(ABLE - ELSEWHERE)
    for number, given in enumerate((SMALL.get(name, {}), *MORE.get(name, [])))
}


def talk(numbers):
    """A script that says pieces at random, differently after each context, reproducibly."""

    def script(context):
        rng = random.Random(repr((numbers, context.prompt, context.text, context.branch)))
        for number in range(rng.randint(1, 14)):
            text = rng.choice(PIECES + SEARCHES * 3 if "<search>" in context.prompt else PIECES)
            if not text and (number or context.text):
                yield EOS
            else:
                top = tuple(sorted((-rng.random() * 3 for _ in range(3)), reverse=True))
                yield Token(text, id=number, logprob=top[0], top=top, entropy=rng.random())

    return script


async def judge(prompt, texts):
    return [random.Random(text).random() for text in texts]


class Shelf:
    """A retriever with one document."""

    async def search(self, queries, *, k):
        return [[Hit(Document("7", "It lies in the Andes."), 1.0)] for _ in queries]

    async def aclose(self):
        pass


@dataclass
class Heard:
    """What a listener heard, and when: a time per piece."""

    engine: ScriptedEngine
    pieces: list = field(default_factory=list)
    times: list = field(default_factory=list)

    def __call__(self, text):
        assert text
        self.pieces.append(text)
        self.times.append(self.engine.now)

    @property
    def text(self):
        return "".join(self.pieces)


def ask(policy, script, *, listening=True, max_tokens=30, opens=False, **given):
    engine = ScriptedEngine(script, **given)
    heard, ledger = Heard(engine), Ledger()
    question = Ask(
        engine,
        "Q",
        ledger,
        sampling=Sampling(max_tokens=max_tokens),
        opens_thinking=opens,
        scorer=judge,
        engines=dict.fromkeys(("weak", "strong", "small", "large", "draft"), engine),
        retriever=Shelf(),
        listener=heard if listening else None,
    )
    answer = asyncio.run(run_policy(policy, question))
    assert not engine.open_branches
    assert engine.emitted == ledger.generated
    return answer, heard, engine


@pytest.mark.parametrize(("name", "given_"), WAYS.values(), ids=WAYS)
@settings(max_examples=12, deadline=None)
@given(numbers=st.integers(0, 10**6), opens=st.booleans(), max_tokens=st.integers(1, 40))
def test_what_was_heard_begins_what_is_returned_and_listening_changes_nothing(name, given_, numbers, opens, max_tokens):
    policy = find(name).build(given_)
    answer, heard, engine = ask(policy, talk(numbers), opens=opens, max_tokens=max_tokens)
    assert answer.text.startswith(heard.text)
    silent, nothing, other = ask(policy, talk(numbers), listening=False, opens=opens, max_tokens=max_tokens)
    assert not nothing.pieces
    assert (silent.text, silent.answer, silent.finish) == (answer.text, answer.answer, answer.finish)
    assert silent.ledger.by_role_and_fate() == answer.ledger.by_role_and_fate()
    assert other.now == engine.now


THOUGHT = ["<think>", "a", " b.", " c", "</think>", " so", r" \boxed{7}"]


def say(context, tokens=THOUGHT):
    """The rest of a text that everything follows."""
    said = context.text
    for token in tokens:
        if not said:
            yield token
        said = said[len(token) :]


@pytest.mark.parametrize(
    "policy",
    [
        Plain(),
        ThinkBudget(maximum=20),
        EffortSwitch(effort="high"),
        EndOfThinkBoost(close_id=3, boost=2.0),
        AnswerConsistency(threshold=9, suffix=""),
        RiskControlledStop(parameters={"at": [" b"]}),
        SemanticSwitch(threshold=0.0),
        DifficultyProbe(),
        HybridRouter(),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_single_trace_is_heard_token_by_token(policy):
    answer, heard, _ = ask(policy, say)
    assert heard.text == answer.text == "".join(THOUGHT)
    assert len(heard.pieces) == len(THOUGHT)
    assert heard.times == sorted(set(heard.times))


def test_an_ignored_end_of_thinking_is_never_heard():
    def script(context):
        if "Wait" not in context.text:
            return ["<think>", "a", "</th", "ink>", "b"]
        return ["b", "</think>", " 7"] if "</think>" not in context.text else [" 7"]

    answer, heard, _ = ask(ThinkBudget(ignored_ends=1), script)
    assert heard.text == answer.text == "<think>aWaitb</think> 7"
    assert "</th" not in "".join(heard.pieces[: heard.pieces.index("Wait")])


def test_probes_are_not_heard():
    def script(context):
        return [r"\boxed{5}", EOS] if context.role == "probe" else say(context)

    answer, heard, _ = ask(AnswerConsistency(threshold=1, at=(" b.",), suffix=""), script)
    assert answer.notes["probes"][0]["answers"] == ["5"]
    assert heard.text == answer.text
    assert "5" not in heard.text


def test_the_winner_of_short_1_at_k_is_heard_once_it_is_known_and_its_answer_as_it_comes():
    def script(context):
        if "</think>" in context.text:
            return [" so", r" \boxed{7}"]
        return ["<think>", *["t"] * (3 + context.branch), "</think>"]

    answer, heard, _ = ask(ShortMK(k=3, m=1), script)
    assert heard.pieces == ["<think>ttt</think>", " so", r" \boxed{7}"]
    assert heard.times == [5, 6, 7]
    assert heard.text == answer.text


def test_the_first_to_finish_is_heard_when_it_is_there():
    def script(context):
        return [*["t"] * (2 + context.branch), EOS]

    answer, heard, _ = ask(FirstFinish(k=3), script)
    assert heard.pieces == [answer.text] == ["tt"]


@pytest.mark.parametrize("policy", [BestOfN(samples=2), SelfConsistency(samples=2), Selective(threshold=0.9)])
def test_nothing_is_heard_of_what_may_lose(policy):
    _, heard, _ = ask(policy, say)
    assert not heard.pieces


def test_of_a_cascade_the_last_stage_is_heard_as_it_comes_and_an_accepted_one_when_it_is():
    _, heard, _ = ask(Cascade(thresholds=(2.0,)), say)
    assert heard.pieces == THOUGHT
    answer, heard, _ = ask(Cascade(thresholds=(0.0,)), say)
    assert heard.pieces == [answer.text] == ["".join(THOUGHT)]


def test_a_confidence_cascade_asks_for_log_probabilities_while_it_is_heard():
    def script(context):
        return [Token(text, logprob=-1.0, top=(-1.0, -1.1)) for text in say(context)]

    answer, heard, _ = ask(ConfidenceCascade(method="margin"), script)
    assert (answer.notes["stage"], heard.pieces) == (1, THOUGHT)


STEPS = ["one\n\n", "two\n\n", "three"]


@pytest.mark.parametrize(
    "policy", [Mur(), Pats(candidates=(2, 2), reject=0.0), DraftTarget(), DraftTarget(threshold=0.0)]
)
def test_a_step_is_heard_once_it_is_taken(policy):
    def script(context):
        return [Token(text, logprob=-1.0) for text in say(context, STEPS)]

    answer, heard, _ = ask(policy, script)
    assert heard.pieces == STEPS
    assert heard.times == sorted(set(heard.times))
    assert answer.text == "".join(STEPS)


def test_an_open_branch_is_heard_from_its_beginning_and_nothing_twice():
    async def go():
        heard = []
        engine = ScriptedEngine(say)
        question = Ask(engine, "Q", Ledger(), listener=heard.append)
        branch = question.open()
        await branch.generate(max_tokens=2)
        question.tell("<think>")
        followed = question.follow(branch)
        fork = await question.fork(followed)
        await fork.generate(max_tokens=2)
        await followed.extend("!")
        async for _ in followed.stream(max_tokens=9):
            pass
        question.tell(followed.text)
        await question.stack.aclose()
        return heard, followed.text, fork.text

    heard, text, fork = asyncio.run(go())
    assert heard[:3] == ["<think>", "a", "!"]
    assert "".join(heard) == text
    assert fork == "<think>a b. c"


def test_following_something_else_than_what_was_heard_is_a_mistake_of_the_policy():
    question = Ask(ScriptedEngine(say), "Q", Ledger(), listener=lambda text: None)
    question.tell("one")
    with pytest.raises(AssertionError, match="something else"):
        question.tell("two")
