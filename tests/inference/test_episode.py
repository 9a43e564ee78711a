"""The state machine of search episodes, turn by turn, on an engine that says what it is told."""

import asyncio
import json
from pathlib import Path

import pytest

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.episode import PROTOCOLS, run_episode
from laconic.inference.ledger import Ledger
from laconic.inference.policies.base import Ask
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.documents import Document, Hit
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "search_rewards.json").read_text())["search_r1_rollout"]
LAKE = Document("7", "It lies in the Andes.", "Lake")
RIVER = Document("9", "It flows east.")
SEARCH, ANSWER = "<search> lake </search>", "<answer> Andes </answer>"


class Listed:
    """Finds the same documents for every query."""

    def __init__(self, *documents):
        self.hits = [Hit(document, 1.0 / place) for place, document in enumerate(documents, start=1)]
        self.calls = []

    async def search(self, queries, *, k):
        self.calls.append((tuple(queries), k))
        return [self.hits[:k] for _ in queries]

    async def aclose(self):
        pass


def speaker(*turns, split=str.split):
    """A script that says one turn after the other, whatever it is asked to go on from; the last one for ever."""
    said = iter(turns)

    def script(context):
        return words(next(said, turns[-1])) if split is str.split else list(next(said, turns[-1]))

    return script


def words(text):
    """Tokens: words with the blank before them."""
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def run(*turns, retriever=None, split=str.split, prompt="where is it ?", max_tokens=200, **settings):
    """An episode, its engine and its retriever."""
    retriever = retriever or Listed(LAKE, RIVER)

    async def go():
        engine = ScriptedEngine(speaker(*turns, split=split))
        ask = Ask(engine, prompt, Ledger(), sampling=Sampling(max_tokens=max_tokens))
        episode = await run_episode(ask, retriever, **({"protocol": "search_r1"} | settings))
        assert engine.open_branches == set()
        assert "".join(piece.text for piece in episode.pieces) == episode.text
        assert sum(piece.tokens for piece in episode.pieces) == episode.ledger.generated + episode.ledger.forced
        return episode, engine

    return asyncio.run(asyncio.wait_for(go(), 30))


def kinds(episode):
    return [piece.kind for piece in episode.pieces]


@pytest.mark.parametrize("case", GOLDEN, ids=["one search", "no search"])
def test_search_r1s_own_rollouts(case):
    given, expected = case["inputs"], case["expected"]
    documents = [Document.from_contents(str(at), text) for at, text in enumerate(given["docs_per_query"])]
    episode, engine = run(
        *given["model_outputs"],
        retriever=Listed(*documents),
        split=list,
        count=len,
        max_searches=case["params"]["max_turns"],
        k=case["params"]["topk"],
        document_tokens=case["params"]["max_obs_length"],
    )
    assert episode.text == expected["final_response"]
    assert len(episode.text) == expected["response_tokens"]
    assert episode.generated_tokens == expected["trainable_tokens(info_mask)"]
    assert (episode.turns, len(episode.searches)) == (expected["turns_stats"], expected["valid_search_stats"])
    assert (episode.finish == "answer") is not expected["still_active"]
    # Theirs generates the text after the closing tag and throws it away; ours stops there.
    assert engine.emitted == episode.generated_tokens < sum(map(len, given["model_outputs"]))


def test_an_episode_of_one_search_to_the_token():
    episode, _ = run(f"<think> where </think> {SEARCH}", ANSWER)
    assert episode.text == (
        '<think> where </think> <search> lake </search>\n\n<information>Doc 1(Title: "Lake") It lies in the Andes.\n'
        "Doc 2 It flows east.</information>\n\n<answer> Andes </answer>"
    )
    assert kinds(episode) == ["generated", "retrieved", "generated"]
    (search,) = episode.searches
    assert (search.query, search.ids, search.turn, search.scores, search.shown) == ("lake", ("7", "9"), 0, (1, 0.5), 2)
    assert (episode.answer, episode.finish, episode.invalid, episode.refused) == ("Andes", "answer", 0, 0)
    assert episode.citations == ("7", "9")
    # <information>Doc, 1(Title:, "Lake"), It lies in the Andes., Doc, 2, It flows east.</information>
    assert (episode.generated_tokens, episode.retrieved_tokens, episode.forced_tokens) == (9, 13, 0)
    roles = episode.ledger.by_role_and_fate()
    assert (roles["think"]["kept"], roles["answer"]["kept"]) == (6, 3)
    assert (episode.ledger.generated, episode.ledger.forced) == (9, 13)


def test_the_search_after_the_last_one_is_never_executed_nor_counted():
    retriever = Listed(LAKE)
    episode, _ = run(SEARCH, retriever=retriever, max_searches=2)
    # Search-R1 counts 3 here, and ends without a word.
    assert (len(episode.searches), len(retriever.calls)) == (2, 2)
    assert (episode.turns, episode.refused, episode.finish, episode.answer) == (4, 2, "budget", None)
    assert kinds(episode) == ["generated", "retrieved"] * 2 + ["generated", "forced", "generated"]
    assert episode.pieces[5].text == PROTOCOLS["search_r1"].notice


def test_the_final_answer_after_the_budget_and_after_the_notice():
    episode, _ = run(SEARCH, ANSWER, max_searches=1)
    assert (len(episode.searches), episode.refused, episode.finish, episode.turns) == (1, 0, "answer", 2)
    episode, _ = run(SEARCH, SEARCH, ANSWER, max_searches=1)
    assert (len(episode.searches), episode.refused, episode.finish, episode.turns) == (1, 1, "answer", 3)


def test_without_a_budget_nothing_is_searched():
    episode, _ = run(SEARCH, ANSWER, max_searches=0, retriever=Listed())
    assert (episode.searches, episode.refused, episode.answer) == ((), 1, "Andes")


def test_disabled_searches_are_answered_by_nothing_up_to_the_budget():
    retriever = Listed(LAKE)
    episode, _ = run(SEARCH, retriever=retriever, max_searches=2, searches_enabled=False)
    protocol = PROTOCOLS["search_r1"]
    assert [piece.text for piece in episode.pieces if piece.kind == "forced"] == [
        *[protocol.disabled] * 2,
        protocol.notice,
    ]
    assert (retriever.calls, episode.searches, episode.refused, episode.finish) == ([], (), 4, "budget")
    assert episode.retrieved_tokens == 0
    assert episode.ledger.forced == episode.forced_tokens > 0


INVALID = {
    "no action": "<think> hm </think>",
    "other brackets": "(search) lake </search>",
    "a closing tag alone": "lake </search>",
    "nothing to search": "<search>  </search>",
    "an empty answer": "<answer> </answer>",
    "an answer closed as a search": "<answer> lake </search>",
    "a search closed as an answer": "<search> lake </answer>",
    "the answer within the search": "<search> lake <answer> Andes </search>",
}


@pytest.mark.parametrize("said", INVALID.values(), ids=INVALID)
def test_invalid_actions_are_answered_by_a_hint_and_counted(said):
    retriever = Listed(LAKE)
    episode, _ = run(said, ANSWER, retriever=retriever)
    assert (episode.invalid, episode.finish, episode.answer, retriever.calls) == (1, "answer", "Andes", [])
    assert kinds(episode) == ["generated", "forced", "generated"]
    assert len(episode.pieces[1].text) == 218  # what the authors' hint has
    assert "My previous action is invalid" in episode.pieces[1].text


def test_too_many_invalid_actions_end_it():
    episode, _ = run("hm", max_invalid=2)
    assert (episode.invalid, episode.finish, episode.turns) == (3, "invalid", 3)
    assert kinds(episode) == ["generated", "forced"] * 2 + ["generated"]
    episode, _ = run("hm", max_invalid=0)
    assert (kinds(episode), episode.finish) == (["generated"], "invalid")


def test_a_mentioned_tag_is_no_query():
    episode, _ = run(f"<think> a <search> may help </think> {SEARCH}", ANSWER)
    assert [search.query for search in episode.searches] == ["lake"]


def test_a_turn_that_is_cut_is_invalid_and_a_cut_episode_has_a_length():
    episode, _ = run("a b c d e f", ANSWER, turn_tokens=4)
    assert (episode.invalid, episode.pieces[0].text, episode.answer) == (1, "a b c d", "Andes")
    episode, _ = run("a b c d e f", ANSWER, max_tokens=4)
    assert (episode.invalid, episode.finish, episode.turns) == (0, "length", 1)
    # What the first turn took is no more there for the second: <answer> and " Andes", but not " </answer>".
    episode, _ = run(SEARCH, ANSWER, max_tokens=5)
    assert (episode.finish, episode.answer, episode.generated_tokens) == ("length", None, 5)
    episode, _ = run(SEARCH, ANSWER, max_tokens=6)
    assert (episode.finish, episode.answer, episode.generated_tokens) == ("answer", "Andes", 6)


def test_the_context_holds_prompt_documents_and_all():
    # 4 words of prompt, 3 of the search, 13 of the observation, 3 of the answer.
    episode, _ = run(SEARCH, ANSWER, context_tokens=23)
    assert episode.finish == "answer"
    episode, _ = run(SEARCH, ANSWER, context_tokens=22)
    assert (episode.finish, episode.generated_tokens, episode.turns) == ("length", 5, 2)
    episode, _ = run(SEARCH, ANSWER, context_tokens=20)
    assert (episode.finish, episode.generated_tokens, episode.turns) == ("length", 3, 1)


def test_documents_are_shortened_and_the_closing_tag_stands():
    long = Document("1", " ".join(f"w{place}" for place in range(1000)), "Long")
    episode, _ = run(SEARCH, ANSWER, retriever=Listed(long, LAKE), document_tokens=20)
    # Doc, 1(Title:, "Long") and 17 words; nothing is left for the second.
    last = " ".join(f"w{place}" for place in range(17))
    assert episode.pieces[1].text == f'\n\n<information>Doc 1(Title: "Long") {last}</information>\n\n'
    assert (episode.searches[0].ids, episode.searches[0].shown, episode.citations) == (("1", "7"), 1, ("1",))


def test_nothing_found_is_said():
    episode, _ = run(SEARCH, ANSWER, retriever=Listed())
    assert episode.pieces[1].text == "\n\n<information>Nothing was found.</information>\n\n"
    assert (episode.pieces[1].kind, episode.retrieved_tokens, len(episode.searches)) == ("forced", 0, 1)


class Failing(Listed):
    async def search(self, queries, *, k):
        raise LaunchError("no retriever at port 8000", cure="start it")


class Short(Listed):
    async def search(self, queries, *, k):
        return []


class Long(Listed):
    async def search(self, queries, *, k):
        return [[Hit(LAKE, 1.0)] * (k + 1)]


@pytest.mark.parametrize(
    ("retriever", "message"), [(Failing(), "no retriever at port"), (Short(), "hits for one query"), (Long(), "k=3")]
)
def test_what_a_retriever_does_wrong_is_raised_and_the_branch_freed(retriever, message):
    async def go():
        engine = ScriptedEngine(speaker(SEARCH))
        ask = Ask(engine, "q", Ledger())
        with pytest.raises(LaunchError, match=message):
            await run_episode(ask, retriever, protocol="search_r1")
        assert engine.open_branches == set()
        assert ask.ledger.by_role_and_fate()["think"] == {"kept": 0, "voted": 0, "discarded": 3}

    asyncio.run(go())


class Never(Listed):
    async def search(self, queries, *, k):
        self.calls.append(queries)
        await asyncio.Event().wait()


@pytest.mark.parametrize("searching", [True, False], ids=["while it searches", "while it speaks"])
def test_a_cancelled_episode_frees_its_branch(searching):
    async def go():
        engine = ScriptedEngine(lambda context: words(SEARCH) if searching else iter(lambda: " hm", None))
        ask, retriever = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=10**6)), Never()
        task = asyncio.create_task(run_episode(ask, retriever, protocol="search_r1"))
        while not (retriever.calls if searching else engine.emitted > 10):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.open_branches == set()
        assert ask.ledger.generated == engine.emitted > 0
        await engine.aclose()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_episodes_share_one_batch_per_turn():
    inner = Listed(LAKE)

    async def go():
        def script(context):
            asked = context.text.count("</search>")
            return words(f"<search> {context.prompt} {asked} </search>" if asked < 3 else ANSWER)

        engine = ScriptedEngine(script)
        shared = BatchingRetriever(inner)
        asks = [Ask(engine, f"q{place}", Ledger()) for place in range(16)]
        return await asyncio.gather(*(run_episode(ask, shared, protocol="search_r1") for ask in asks))

    episodes = asyncio.run(asyncio.wait_for(go(), 30))
    assert [len(queries) for queries, _ in inner.calls] == [16, 16, 16]
    assert [[search.query for search in episode.searches] for episode in episodes] == [
        [f"q{place} {turn}" for turn in range(3)] for place in range(16)
    ]


@pytest.mark.parametrize("lacking", [Capability.PREFIX, Capability.STOP])
def test_what_the_engine_must_be_able_to_do(lacking):
    engine = ScriptedEngine(speaker(ANSWER), capabilities=set(Capability) - {lacking})
    with pytest.raises(LaunchError, match=lacking.value):
        asyncio.run(run_episode(Ask(engine, "q", Ledger()), Listed(), protocol="search_r1"))


def test_without_a_retriever_only_what_does_not_search():
    async def one(**settings):
        return await run_episode(Ask(ScriptedEngine(speaker(ANSWER)), "q", Ledger()), None, protocol="mash", **settings)

    with pytest.raises(LaunchError, match="needs a retriever"):
        asyncio.run(one())
    assert asyncio.run(one(searches_enabled=False)).answer == "Andes"
    assert asyncio.run(one(max_searches=0)).answer == "Andes"


def test_wrong_settings_are_named():
    with pytest.raises(RecipeError, match="did you mean search_r1"):
        run(ANSWER, protocol="search_r2")
    for name in ("k", "document_tokens", "turn_tokens", "context_tokens"):
        with pytest.raises(RecipeError, match=f"{name}=0"):
            run(ANSWER, **{name: 0})
    for name in ("max_searches", "max_invalid"):
        with pytest.raises(RecipeError, match=f"{name}=-1"):
            run(ANSWER, **{name: -1})


def test_the_record_is_json():
    episode, _ = run(SEARCH, ANSWER)
    row = json.loads(json.dumps(episode.to_json()))
    assert row["searches"] == [{"query": "lake", "ids": ["7", "9"], "turn": 0, "scores": [1.0, 0.5], "shown": 2}]
    assert [piece["kind"] for piece in row["pieces"]] == ["generated", "retrieved", "generated"]
    with pytest.raises(LaunchError, match="no token ids"):
        episode.loss_mask()
