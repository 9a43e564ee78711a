"""Forks that begin before the end of the last generation, and streams as able as `generate`, on every engine."""

from __future__ import annotations

import asyncio
import copy
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Capability, Sampling, Steering
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.engines.openai import OpenAIEngine
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Account, Ledger
from laconic.rewards.errors import LaunchError, RecipeError
from laconic.training.scratch import bpe_tokenizer

TEXT = ["The answer is 42. " * 3, "<think> naïve 数字 🙂 </think>", "aé🙂b数c"]
GREEDY = Sampling(temperature=0)
TOKENS = ("<think>", "a ", "b ", "</think>", "7")


@cache
def tokenizer():
    return bpe_tokenizer(TEXT, vocab_size=300)


@cache
def model():
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


def remaining(context):
    """What `TOKENS` says after the text so far."""
    said = [token for token in TOKENS if not context.text.startswith("".join(TOKENS[: TOKENS.index(token) + 1]))]
    return [*said, EOS]


def run(work, engine):
    async def go():
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.aclose()

    return asyncio.run(go())


@pytest.fixture(params=["scripted", "openai", "openai ids", "transformers"])
def open_engine(request, fault_server):
    """Makes an engine, inside a loop."""
    if request.param == "scripted":
        return lambda: ScriptedEngine(remaining)
    if request.param == "transformers":
        return lambda: TransformersEngine(model(), tokenizer())
    ids = {"token_ids": True} if request.param == "openai ids" else {}
    if ids:
        fault_server.tokens = tuple("<think>ab</think>7")
    return lambda: OpenAIEngine(
        fault_server.url, "tiny", server="vllm", render=fault_server.render, tokenizer=fault_server.tokenizer, **ids
    )


def test_a_fork_leaves_out_the_newest_tokens_and_their_account(open_engine):
    async def work(engine):
        ledger = Ledger()
        branch = engine.open("q", ledger=ledger, sampling=GREEDY)
        first = await branch.generate(max_tokens=2, min_tokens=2)
        chunk = await branch.generate(max_tokens=3, min_tokens=3)
        texts = [token.text for token in chunk.tokens]
        forks = {back: await branch.fork(back=back) for back in (0, 1, 2, 3)}
        for back, fork in forks.items():
            assert fork.text == first.text + "".join(texts[: 3 - back])
        assert ledger.generated == 5
        # A fork of a fork leaves out what is left.
        again = await forks[1].fork(back=2)
        assert again.text == first.text
        with pytest.raises(RecipeError, match="has 2 tokens"):
            await forks[1].fork(back=3)
        await forks[1].close("kept")
        assert (ledger.tokens(fate="kept"), ledger.tokens(fate="discarded")) == (4, 1)
        await branch.close("voted")
        await again.close("kept")
        assert (ledger.tokens(fate="kept"), ledger.tokens(fate="voted")) == (4, 1)
        # What the parent said then comes again: the fork's own tokens, not another's.
        more = await forks[2].generate(max_tokens=2, min_tokens=2, role="probe")
        assert [token.text for token in more.tokens] == texts[1:]
        assert forks[2].text == first.text + "".join(texts)
        await forks[2].close("discarded")
        await forks[0].close("discarded")
        await forks[3].close("discarded")
        assert (ledger.generated, ledger.tokens("probe", "discarded")) == (7, 2)
        assert (ledger.tokens("think", "kept"), ledger.tokens("think", "voted")) == (4, 1)

    run_on(open_engine, work)


def run_on(make, work):
    async def go():
        engine = make()
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.aclose()

    return asyncio.run(go())


def test_what_cannot_be_left_out_is_refused(open_engine, fault_server):
    fault_server.pause = 0.02  # one token at a time

    async def work(engine):
        branch = engine.open("q", ledger=Ledger(), sampling=GREEDY)
        for back in (1, -1):
            with pytest.raises(RecipeError, match=f"back={back}, but the last generation has 0 tokens"):
                await branch.fork(back=back)
        await branch.generate(max_tokens=2, min_tokens=2)
        with pytest.raises(RecipeError, match="back=3, but the last generation has 2 tokens"):
            await branch.fork(back=3)
        stream = branch.stream(max_tokens=2, min_tokens=2)
        async for _ in stream:
            with pytest.raises(LaunchError, match="is generating"):
                await branch.fork(back=1)
            before = await branch.fork()
            assert (await before.fork(back=1)).text != before.text
            break
        await stream.aclose()
        await branch.extend("x")
        with pytest.raises(LaunchError, match="forced text follows"):
            await branch.fork(back=1)

    run_on(open_engine, work)


def test_streams_report_and_bias_as_generate_does(open_engine):
    async def work(engine):
        asked = {"max_tokens": 3, "min_tokens": 3}
        if Capability.TOP_LOGPROBS in engine.capabilities:
            asked["top_logprobs"] = 2
        if Capability.LOGIT_BIAS in engine.capabilities:
            asked["bias"] = {65: 4.0}
        whole = await engine.open("q", ledger=Ledger(), sampling=GREEDY).generate(**asked)
        pieces = [piece async for piece in engine.open("q", ledger=Ledger(), sampling=GREEDY).stream(**asked)]
        return whole, pieces[-1], engine

    whole, last, engine = run_on(open_engine, work)
    assert (whole.text, whole.reason) == (last.text, last.reason)
    reported = [(token.text, token.id, token.top) for token in whole.tokens]
    assert reported == [(token.text, token.id, token.top) for token in last.tokens]
    if not isinstance(engine, ScriptedEngine):
        assert all(len(token.top) == 2 for token in last.tokens)


def test_a_stream_sends_the_bias(fault_server):
    async def work():
        async with fault_server.raw() as engine:
            branch = engine.open("q", ledger=Ledger())
            return [piece async for piece in branch.stream(max_tokens=9, bias={65: -1.5}, top_logprobs=3)]

    asyncio.run(work())
    assert (fault_server.requests[0]["logit_bias"], fault_server.requests[0]["logprobs"]) == ({"65": -1.5}, 3)


def test_a_biased_stream_says_what_is_wanted():
    async def work(engine):
        branch = engine.open("q", ledger=Ledger(), sampling=GREEDY)
        return [piece async for piece in branch.stream(max_tokens=4, bias={70: 1e4})][-1]

    assert [token.id for token in run(work, TransformersEngine(model(), tokenizer())).tokens] == [70] * 4


def test_engines_that_cannot_look_inside_say_so(open_engine):
    async def work(engine):
        branch = engine.open("q", ledger=Ledger())
        inside = {Capability.SCORE, Capability.HIDDEN_STATES, Capability.STEERING, Capability.KV_EDIT}
        if isinstance(engine, TransformersEngine):
            assert inside <= engine.capabilities
            return
        assert not inside & engine.capabilities
        for call in (branch.score("x"), branch.hidden(), branch.attention(last=1), branch.evict([[0]])):
            with pytest.raises(LaunchError, match="has no") as caught:
                await call
            assert "TransformersEngine" in caught.value.cure
        with pytest.raises(LaunchError, match="edits of activations"):
            branch.steer(None)
        with pytest.raises(LaunchError, match="edits of activations"):
            branch.steer(Steering(0, torch.zeros(3).numpy()))

    run_on(open_engine, work)


def scripted_ids(ids):
    """A model that says these tokens, by position."""
    chosen, start = copy.deepcopy(model()), len(encode_prompt(tokenizer(), "q"))
    at = {start - 1 + place: token for place, token in enumerate(ids)}

    def say(module, args, kwargs, output):
        width = kwargs["input_ids"].shape[1]
        places = kwargs.get("position_ids", torch.arange(width)[None])
        keep = kwargs["logits_to_keep"]
        places = places[:, keep] if isinstance(keep, torch.Tensor) else places[:, -keep:]
        wanted = [[at.get(place, tokenizer().eos_token_id) for place in row] for row in places.tolist()]
        output.logits = torch.nn.functional.one_hot(torch.tensor(wanted), output.logits.shape[-1]).double() * 50
        return output

    chosen.register_forward_hook(say, with_kwargs=True)
    return chosen


def test_characters_of_several_tokens_are_left_out_by_token():
    said = tokenizer()("aé🚀b", add_special_tokens=False)["input_ids"]
    text = [tokenizer().decode(said[:end]).rstrip("\N{REPLACEMENT CHARACTER}") for end in range(len(said) + 1)]

    async def work(engine):
        ledger = Ledger()
        branch = engine.open("q", ledger=ledger, sampling=GREEDY)
        chunk = await branch.generate(max_tokens=40)
        assert (chunk.text, chunk.reason, len(chunk.tokens)) == ("aé🚀b", "eos", len(said) + 1)
        assert "" in {token.text for token in chunk.tokens[:-1]}, "every character is one token"
        forks = [await branch.fork(back=back) for back in range(len(said) + 2)]
        for back, fork in enumerate(forks[1:]):
            assert fork.text == text[len(said) - back]
            assert fork.strand.ids[len(fork.strand.prompt) :] == said[: len(said) - back]
            await fork.generate(max_tokens=40, role="probe")
            assert fork.text == "aé🚀b"
        return len(said), ledger

    length, ledger = run(work, TransformersEngine(scripted_ids(said), tokenizer()))
    assert ledger.generated == length + 1 + sum(range(1, length + 2))


def test_a_fork_before_a_stop_string_that_was_cut_has_the_tokens_as_they_came():
    said = tokenizer()("The answer is 42.", add_special_tokens=False)["input_ids"]

    async def work(engine):
        branch = engine.open("q", ledger=Ledger(), sampling=GREEDY)
        chunk = await branch.generate(max_tokens=20, stop=["nswer i"])
        assert branch.text == "The a"
        states = []
        for back in range(1, len(chunk.tokens)):
            await branch.hidden()  # the token that was encoded anew is in the cache
            fork = await branch.fork(back=back)
            ids = fork.strand.ids[len(fork.strand.prompt) :]
            assert ids == said[: len(chunk.tokens) - back]
            assert fork.text == tokenizer().decode(ids)
            await fork.extend("b")
            states.append((list(fork.strand.ids), await fork.hidden()))
        return states

    chosen = scripted_ids(said)
    states = run(work, TransformersEngine(chosen, tokenizer()))
    assert len(states) > 1
    for ids, state in states:
        with torch.no_grad():
            wanted = chosen.model(torch.tensor([ids])).last_hidden_state[0, -1]
        assert state[0] == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-5)


def test_only_what_was_kept_has_not_to_be_read():
    async def work(engine):
        ledger = Ledger()
        branch = engine.open("q", ledger=ledger, sampling=GREEDY)
        await branch.generate(max_tokens=9, min_tokens=9)
        length = len(branch.strand.ids)
        read = []
        engine.decoder.passes.model.register_forward_pre_hook(
            lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        fork = await branch.fork(back=4)
        await fork.generate(max_tokens=3, min_tokens=3)
        return read, ledger.cached, length

    read, cached, length = run(work, TransformersEngine(model(), tokenizer()))
    # The newest token that it has is read for the next one.
    assert (sum(read), cached) == (3, length - 4)


def test_segments_are_divided_for_everyone_who_holds_them():
    ledger = Ledger()
    trunk = Account(ledger, prompt=0)
    trunk.generate("think", 4)
    early = trunk.fork()
    entry = trunk.generate("think", 10)
    whole = trunk.fork()
    first, second, third = trunk.fork(back=3), trunk.fork(back=7), trunk.fork(back=3)
    nothing = trunk.fork(back=10)
    trunk.relabel("answer")
    entry.report(exact=False)
    assert (ledger.generated, ledger.tokens("answer"), ledger.exact) == (14, 10, False)
    assert sorted(segment.tokens for segment in ledger.segments) == [3, 3, 4, 4]
    first.close("voted")
    third.close("discarded")
    assert ledger.by_role_and_fate()["answer"] == {"kept": 0, "voted": 7, "discarded": 3}
    second.close("kept")
    assert ledger.by_role_and_fate()["answer"] == {"kept": 3, "voted": 4, "discarded": 3}
    nothing.close("kept")
    assert ledger.by_role_and_fate()["think"] == {"kept": 4, "voted": 0, "discarded": 0}
    whole.close("voted")
    assert ledger.by_role_and_fate()["answer"] == {"kept": 3, "voted": 7, "discarded": 0}
    trunk.close("kept")
    early.close("discarded")
    assert ledger.tokens(fate="kept") == ledger.generated == 14
    assert ledger.critical_path == 14
