"""A server with a retriever, asked by the official OpenAI client: policies that search, and citations."""

import math

import openai
import pytest

from laconic.inference.engine import Token
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.opening import Opened
from laconic.inference.policies.choose import parse_choice
from laconic.inference.policies.retrieving import within
from laconic.inference.policies.search_episode import SearchEpisode
from laconic.inference.retrieval.batching import BatchingRetriever
from laconic.inference.retrieval.bm25 import Bm25Retriever
from laconic.inference.retrieval.documents import Document
from laconic.inference.server.service import Service
from laconic.rewards.errors import LaunchError

CORPUS = [
    Document("peru", "Lima is the capital of Peru.", "Peru"),
    Document("lima", "Lima lies on the coast of the Pacific.", "Lima"),
    Document("chile", "Santiago is the capital of Chile.", "Chile"),
]
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "On which ocean lies the capital of Peru?"}]}


def words(text):
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def agent(context):
    """Looks for the capital, then for the city, then answers; asked on the side, it says what it knows by then."""
    seen = context.text.count("</information>")
    if context.role == "probe":
        guess = "Pacific" if seen else "Atlantic"
        sure = math.log(0.9 if "Peru" not in str(context.prompt) else 0.3)
        return [Token(guess, logprob=sure), Token("</answer>", logprob=0.0)]
    turns = ("<think> hm </think><search> capital of Peru </search>", "<search> Lima coast </search>")
    return words((*turns, "<answer> Pacific </answer>")[min(seen, 2)])


@pytest.fixture(scope="module")
def served(serving):
    retriever = BatchingRetriever(Bm25Retriever.from_documents(CORPUS))
    return serving(ScriptedEngine(agent), policy="search_episode:k=1", retriever=retriever)


@pytest.fixture(scope="module")
def client(served):
    return served.client()


def test_an_answer_cites_what_was_shown(client):
    reply = client.chat.completions.create(**ASKED)
    (choice,) = reply.choices
    told = choice.laconic
    assert told["citations"] == ["peru", "lima"]
    assert [(one["query"], one["ids"], one["turn"]) for one in told["searches"]] == [
        ("capital of Peru", ["peru"], 0),
        ("Lima coast", ["lima"], 1),
    ]
    assert (told["policy"], told["answer"], told["finish"]) == ("search_episode", "Pacific", "stop")
    # Documents are put in, not generated.
    assert told["ledger"]["forced"] == told["retrieved_tokens"] > 0
    said = sum(len(words(turn)) for turn in ("<think> hm </think><search> capital of Peru </search>",))
    said += len(words("<search> Lima coast </search>")) + len(words("<answer> Pacific </answer>"))
    assert reply.usage.completion_tokens == said
    assert "Lima lies on the coast" in choice.message.content


def test_a_stream_ends_with_the_citations(client):
    text, ends = "", []
    for chunk in client.chat.completions.create(**ASKED, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ends += [choice] if choice.finish_reason else []
    whole = client.chat.completions.create(**ASKED).choices[0]
    assert text == whole.message.content
    assert [end.laconic["citations"] for end in ends] == [["peru", "lima"]]


@pytest.mark.parametrize(
    ("policy", "citations"),
    [
        ("search_episode:max_searches=1,k=1", ["peru"]),
        ("search_episode:searches_enabled=false", []),
        ("stable_search:agree=2,k=1", ["peru", "lima"]),
        ("stable_search:agree=1,k=1", ["peru"]),
        ("self_answer_search:threshold=0.5,k=1", ["peru", "lima"]),
        ("self_answer_search:threshold=0.2,k=1", []),
    ],
)
def test_requests_choose_how_much_is_searched(client, policy, citations):
    reply = client.chat.completions.create(**ASKED, extra_body={"policy": policy})
    told = reply.choices[0].laconic
    assert told["citations"] == citations
    assert [name for one in told["searches"] for name in one["ids"]] == citations


def test_completions_of_a_request_search_in_one_batch(client, served):
    retriever = served.service.retriever
    before = retriever.batches, retriever.asked
    reply = client.chat.completions.create(**ASKED, n=4, extra_body={"policy": "search_episode:max_searches=1,k=1"})
    assert [choice.laconic["citations"] for choice in reply.choices] == [["peru"]] * 4
    assert (retriever.batches - before[0], retriever.asked - before[1]) == (1, 1)


def test_answers_without_searches_say_nothing_of_citations(client):
    told = client.chat.completions.create(**ASKED, extra_body={"policy": "plain"}).choices[0].laconic
    assert "citations" not in told


def test_without_a_retriever_nothing_searches(serving):
    server = serving(ScriptedEngine(agent))
    names = server.client().models.list().data[0].laconic["policies"]
    assert not {"search_episode", "stable_search", "self_answer_search"} & set(names)
    with pytest.raises(openai.BadRequestError, match="needs a retriever, and this server has none") as refused:
        server.client().chat.completions.create(**ASKED, extra_body={"policy": "search_episode"})
    assert refused.value.code == "engine_cannot"
    with pytest.raises(LaunchError, match="needs a retriever"):
        Service(Opened(ScriptedEngine(agent), "tiny"), parse_choice("search_episode"))


def test_a_retriever_that_is_away_is_an_error_and_the_server_goes_on(serving):
    class Away:
        async def search(self, queries, *, k):
            raise LaunchError("the retriever is away", cure="start it")

        async def aclose(self):
            pass

    client = serving(ScriptedEngine(agent), policy="search_episode", retriever=Away()).client()
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(**ASKED)
    reply = client.chat.completions.create(**ASKED, extra_body={"policy": "search_episode:searches_enabled=false"})
    assert reply.choices[0].finish_reason == "stop"


def test_episodes_stay_within_what_the_model_can_hold():
    assert within(SearchEpisode(), 512).context_tokens == 512
    assert within(SearchEpisode(context_tokens=100), 512).context_tokens == 100
    plain = parse_choice("plain").build()
    assert within(plain, 512) is plain
    assert within(SearchEpisode(), None).context_tokens is None
