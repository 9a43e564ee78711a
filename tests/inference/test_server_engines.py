"""A server with further engines: cascades and drafts behind one model name, within one run's limits."""

import asyncio

import openai
import pytest

from laconic.inference.engine import Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.opening import Opened, open_named
from laconic.inference.policies.choose import parse_choice
from laconic.inference.server.service import Service
from laconic.rewards.errors import LaunchError

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 ="}], "seed": 1}
NAMES = {"confidence_cascade", "cascade", "hybrid_router", "draft_target"}


def saying(*tokens):
    """An engine that says so, if it is not cut."""
    return ScriptedEngine(lambda context: [*tokens, EOS])


def unsure(*texts):
    """The same, each token with a probability of one in e."""
    return saying(*(Token(text, logprob=-1.0) for text in texts))


def fates(told):
    """Tokens by fate."""
    roles = told["ledger"]["by_role"].values()
    return {fate: sum(role[fate] for role in roles) for fate in ("kept", "discarded")}


@pytest.fixture(scope="module")
def served(serving):
    engines = {"small": Opened(unsure("1", "2"), "a"), "large": Opened(saying("4", "5", "6"), "b")}
    return serving(saying("7"), policy="confidence_cascade:thresholds=[0.9]", engines=engines)


def test_the_engine_that_is_sure_answers_and_all_that_was_generated_is_counted(served):
    client = served.client()
    whole = client.chat.completions.create(**ASKED)
    (choice,) = whole.choices
    assert (choice.message.content, choice.laconic["policy"]) == ("456", "confidence_cascade")
    # With the end of each.
    assert (fates(choice.laconic), whole.usage.completion_tokens) == ({"kept": 4, "discarded": 3}, 7)
    cheap = client.chat.completions.create(**ASKED, extra_body={"policy": "confidence_cascade:thresholds=[0.3]"})
    assert (cheap.choices[0].message.content, cheap.usage.completion_tokens) == ("12", 3)
    assert client.chat.completions.create(**ASKED, extra_body={"policy": "plain"}).choices[0].message.content == "7"


def test_streams_are_of_the_engine_that_answers_and_a_stop_string_ends_it(served):
    def streamed(**options):
        chunks = list(served.client().chat.completions.create(**ASKED, stream=True, **options))
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0].laconic

    assert streamed()[0] == "456"
    text, told = streamed(stop=["5"])
    assert (text, told["finish"]) == ("4", "stop_string")
    assert fates(told) == {"kept": 2, "discarded": 3}


def test_clients_see_one_model_and_the_policies_that_find_their_engines(served):
    (model,) = served.client().models.list().data
    assert model.id == "tiny"
    assert NAMES & set(model.laconic["policies"]) == {"confidence_cascade"}


def test_requests_are_told_which_engine_there_is_not(served):
    with pytest.raises(openai.BadRequestError, match="an engine of the name 'medium', and this server has") as refused:
        served.client().chat.completions.create(
            **ASKED, extra_body={"policy": "confidence_cascade:engines=[small,medium]"}
        )
    assert refused.value.code == "engine_cannot"
    inner = {"name": "selective", "policy": "confidence_cascade", "parameters": {"engines": ["small", "medium"]}}
    with pytest.raises(openai.BadRequestError, match="'medium'"):
        served.client().chat.completions.create(**ASKED, extra_body={"policy": inner})


def test_limits_are_for_all_engines_of_a_run_together(serving):
    engines = {"small": Opened(unsure("1", "2"), "a"), "large": Opened(saying("4", "5", "6"), "b")}
    policy = "confidence_cascade:thresholds=[0.9]"
    client = serving(saying("7"), policy=policy, engines=engines, max_tokens=5, max_request_tokens=5).client()
    with pytest.raises(openai.BadRequestError, match="more than 5 tokens"):
        client.chat.completions.create(**ASKED)
    # The small engine alone stays within them.
    assert client.chat.completions.create(**ASKED, extra_body={"policy": f"{policy[:-5]}[0.3]"}).choices


def test_a_server_whose_policy_asks_engines_that_there_are_not_is_refused():
    given = {"engines": {"small": Opened(saying("1"), "a")}}
    with pytest.raises(LaunchError, match="an engine of the name 'large'") as refused:
        Service(Opened(saying("7"), "tiny"), parse_choice("confidence_cascade"), **given)
    assert refused.value.cure == "name each: --engine NAME=MODEL"


def test_a_model_of_several_names_is_opened_once_and_every_engine_is_closed_once():
    opened, closed = [], []

    class Closing(ScriptedEngine):
        def __init__(self, name):
            super().__init__(lambda context: [EOS])
            self.name = name

        async def aclose(self):
            closed.append(self.name)
            if self.name == "b":
                raise LaunchError("it is gone")

    def open_one(model):
        opened.append(model)
        return Opened(Closing(model), model)

    main = Opened(Closing("m"), "m")
    models = {"small": "a", "large": "m", "draft": "b", "again": "a"}
    engines = open_named(models, beside=main, open_one=open_one)
    assert {name: other.name for name, other in engines.items()} == models
    assert engines["large"] is main

    async def go():
        with pytest.raises(LaunchError, match="gone"):
            await Service(main, parse_choice("plain"), engines=engines).aclose()

    asyncio.run(go())
    assert (opened, sorted(closed)) == (["a", "b"], ["a", "b", "m"])
