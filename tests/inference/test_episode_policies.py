"""Policies that search: what they return, what they cost, when they stop."""

import asyncio
import math

import pytest

from laconic.inference.engine import Sampling, Token
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.episode import PROTOCOLS
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.choose import parse_choice
from laconic.inference.policies.search_episode import SearchEpisode, SelfAnswerSearch, StableSearch
from laconic.inference.retrieval.documents import Document, Hit
from laconic.rewards.errors import LaunchError, RecipeError

SEARCH, ANSWER = "<search> lake </search>", "<answer> Andes </answer>"


class Numbered:
    """Finds another document for every search."""

    def __init__(self):
        self.found = 0

    async def search(self, queries, *, k):
        self.found += 1
        return [[Hit(Document(f"d{self.found}", "Some text."), 1.0)] for _ in queries]

    async def aclose(self):
        pass


def words(text):
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def speaker(*turns, probes=()):
    """Turns by the number of observations so far; probes one after the other."""
    asides = iter(probes)

    def script(context):
        if context.role == "probe":
            return next(asides)
        return words(turns[min(context.text.count("</information>"), len(turns) - 1)])

    return script


def run(policy, script, *, retriever=None, heard=None, **given):
    async def go():
        engine = ScriptedEngine(script)
        listener = None if heard is None else heard.append
        retrieves = retriever or Numbered()
        ask = Ask(
            engine, "where ?", Ledger(), sampling=Sampling(max_tokens=100), retriever=retrieves, listener=listener
        )
        answer = await run_policy(policy, ask)
        assert engine.open_branches == set()
        return answer

    return asyncio.run(asyncio.wait_for(go(), 30))


def test_an_episode_as_a_policy():
    heard = []
    answer = run(SearchEpisode(max_searches=2), speaker(SEARCH, SEARCH, ANSWER), heard=heard)
    assert (answer.answer, answer.finish) == ("Andes", "stop")
    assert answer.notes["citations"] == ["d1", "d2"]
    assert [search["query"] for search in answer.notes["searches"]] == ["lake", "lake"]
    assert answer.notes["retrieved_tokens"] == answer.ledger.forced > 0
    assert "".join(heard) == answer.text
    assert len(heard) > 3


@pytest.mark.parametrize(
    ("policy", "turns", "finish"),
    [
        (SearchEpisode(max_searches=1), [SEARCH], "policy_stop"),
        (SearchEpisode(max_invalid=0), ["hm"], "policy_stop"),
        (SearchEpisode(), [" ".join(["hm"] * 200)], "length"),
    ],
    ids=["budget", "invalid", "length"],
)
def test_how_an_episode_without_an_answer_ends(policy, turns, finish):
    answer = run(policy, speaker(*turns))
    assert (answer.answer, answer.finish) == (None, finish)


def test_the_instruction_goes_around_the_last_message():
    seen = []

    def script(context):
        seen.append(context.prompt)
        return words(ANSWER)

    async def ask(policy, prompt):
        asked = Ask(ScriptedEngine(script), prompt, Ledger(), retriever=Numbered())
        return await run_policy(policy, asked)

    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "where ?"}]
    asyncio.run(ask(SearchEpisode(protocol="mash"), "where ?"))
    asyncio.run(ask(SearchEpisode(protocol="mash"), talk))
    asyncio.run(ask(SearchEpisode(protocol="mash", searches_enabled=False), "where ?"))
    asyncio.run(ask(SearchEpisode(instruct=False), "where ?"))
    mash = PROTOCOLS["mash"]
    full = mash.prompt("where ?")
    closed = mash.prompt("where ?", searches_enabled=False)
    assert seen == [full, [talk[0], {"role": "user", "content": full}], closed, "where ?"]
    # A small world's protocol asks the bare question, and marks the one that is to be answered from memory.
    seen.clear()
    asyncio.run(ask(parse_choice("search_episode:protocol=spaced").build(), "where ?"))
    asyncio.run(ask(parse_choice("stable_search:protocol=spaced,searches_enabled=false").build(), "where ?"))
    assert seen == ["where ?", "no search . where ?"]
    assert parse_choice("self_answer_search:protocol=spaced").build().tags is PROTOCOLS["spaced"]


def test_answers_are_read_as_the_question_reads_them():
    policy = SearchEpisode()
    script = speaker(ANSWER)

    async def go():
        ask = Ask(ScriptedEngine(script), "q", Ledger(), retriever=Numbered(), extract=lambda text: text.upper())
        return (await run_policy(policy, ask)).answer

    assert asyncio.run(go()) == "ANDES"


def test_the_search_ends_once_the_answer_is_stable():
    probes = [["Alps", "</answer>"], ["Andes", "</answer>"], [" Andes ", "</answer>"], ["never", "</answer>"]]
    heard, retriever = [], Numbered()
    answer = run(StableSearch(agree=2), speaker(SEARCH, probes=probes), retriever=retriever, heard=heard)
    assert (answer.answer, answer.finish, retriever.found) == ("Andes", "stop", 3)
    assert answer.text.endswith("</information>\n\n<answer>Andes</answer>")
    assert answer.notes["probes"] == ["Alps", "Andes", "Andes"]
    assert "".join(heard) == answer.text
    roles = answer.ledger.by_role_and_fate()
    assert roles["probe"] == {"kept": 0, "voted": 0, "discarded": 6}
    assert roles["think"]["kept"] == 9
    assert answer.notes["citations"] == ["d1", "d2", "d3"]


def test_probes_that_come_to_no_end_are_no_answers():
    endless = ["so"] * 99
    answer = run(StableSearch(agree=1, probe_tokens=4), speaker(SEARCH, ANSWER, probes=[endless]))
    assert (answer.answer, answer.notes["probes"], answer.ledger.tokens("probe")) == ("Andes", [None], 4)


def test_an_unstable_answer_leaves_the_episode_as_it_is():
    probes = [[name, "</answer>"] for name in ("a", "b", "a")]
    script = speaker(SEARCH, SEARCH, SEARCH, ANSWER, probes=probes)
    plain = run(SearchEpisode(), speaker(SEARCH, SEARCH, SEARCH, ANSWER))
    watched = run(StableSearch(agree=2), script)
    assert watched.text == plain.text
    assert watched.ledger.tokens(fate="kept") == plain.ledger.generated


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_a_sure_closed_book_answer_is_returned_and_an_unsure_one_forgotten(threshold):
    # Two tokens of probability 1/4 spell it; the closing tag's own is not looked at.
    aside = [
        Token("the", logprob=-2 * math.log(2)),
        Token(" Andes", logprob=-2 * math.log(2)),
        Token("</answer>", logprob=-9.0),
    ]
    heard = []
    answer = run(SelfAnswerSearch(threshold=threshold), speaker(SEARCH, ANSWER, probes=[aside]), heard=heard)
    assert answer.notes["closed_book_confidence"] == pytest.approx(0.25)
    assert answer.notes["closed_book"] == "the Andes"
    roles = answer.ledger.by_role_and_fate()
    if threshold <= 0.25:
        assert (answer.text, answer.answer) == ("<answer>the Andes</answer>", "the Andes")
        assert answer.confidence == pytest.approx(0.25)
        assert (answer.notes["searches"], answer.notes["citations"]) == ([], [])
        assert (roles["answer"]["kept"], answer.ledger.generated) == (3, 3)
    else:
        assert (answer.answer, answer.confidence) == ("Andes", None)
        assert answer.notes["citations"] == ["d1"]
        assert (roles["probe"]["discarded"], answer.ledger.tokens(fate="kept")) == (3, 6)
    assert "".join(heard) == answer.text


@pytest.mark.parametrize("aside", [["</answer>"], ["a"] * 40], ids=["empty", "endless"])
def test_no_closed_book_answer_is_never_sure(aside):
    said = [Token(text, logprob=0.0) for text in aside]
    answer = run(SelfAnswerSearch(threshold=0.0), speaker(ANSWER, probes=[said]))
    assert (answer.answer, answer.notes["closed_book_confidence"]) == ("Andes", 0.0)


def test_settings_are_checked_when_a_policy_is_made():
    policy = parse_choice("search_episode:protocol=mash,max_searches=5,k=2").build()
    assert (policy.protocol, policy.limits().max_searches, policy.limits().k) == ("mash", 5, 2)
    for text, message in {
        "search_episode:protocol=mesh": "did you mean mash",
        "search_episode:k=0": "k=0",
        "stable_search:agree=0": "agree=0",
        "self_answer_search:threshold=-1": "threshold=-1",
        "self_answer_search:probe_tokens=0": "probe_tokens=0",
    }.items():
        with pytest.raises(RecipeError, match=message):
            parse_choice(text).build()


@pytest.mark.parametrize("name", ["search_episode", "stable_search", "self_answer_search"])
def test_a_question_without_a_retriever_is_refused_before_the_first_token(name):
    engine = ScriptedEngine(speaker(ANSWER, probes=[["x", "</answer>"]]))
    with pytest.raises(LaunchError, match="needs a retriever"):
        asyncio.run(run_policy(POLICIES[name].build(), Ask(engine, "q", Ledger())))
    assert engine.emitted == 0
