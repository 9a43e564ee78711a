"""The engine over vLLM, against a fake of the API it uses: tokens and rules as in process, an exact account."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.engines.vllm import VllmEngine
from laconic.inference.engines.vllm_budget import thinking_sections
from laconic.inference.ledger import FATES, ROLES, Ledger
from laconic.inference.opening import open_engine
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.base import find
from laconic.rewards.errors import DataError, LaunchError, ModelError, RecipeError
from laconic.training.scratch import bpe_tokenizer, symbolic_tokenizer

SPEC = importlib.util.spec_from_file_location("fake_vllm", Path(__file__).with_name("fake_vllm.py"))
fake = sys.modules["fake_vllm"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fake)

GREEDY = Sampling(temperature=0)
PROMPTS = [" ".join(str((7 * i + 3 * j) % 60) for j in range(1 + (5 * i) % 17)) for i in range(5)]
TAGS = ("<think>", "</think>")


@pytest.fixture(scope="module", autouse=True)
def fake_installed():
    with pytest.MonkeyPatch.context() as patch:
        fake.install(patch)
        yield


@cache
def tokenizer(kind="symbolic"):
    if kind == "symbolic":
        return symbolic_tokenizer([str(number) for number in range(60)] + list("+-*/=;"))
    return bpe_tokenizer(["né 3 + 4 = 7 … then 🙂 so 12"], vocab_size=300)


@cache
def model(kind="symbolic"):
    tokens = tokenizer(kind)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(0)
    # Double precision and spread logits: rounding decides nothing.
    chosen = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in chosen.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return chosen


def logits_of(chosen):
    @cache
    def logits(ids):
        with torch.inference_mode():
            return chosen(torch.tensor([ids])).logits[0, -1].double().numpy()

    return lambda ids: logits(tuple(ids))


@cache
def model_logits(kind):
    return logits_of(model(kind))


def llm(kind="symbolic", *, per_step=1, logits=None, **fields):
    args = fake.AsyncEngineArgs(model="given", **fields)
    return fake.AsyncLLM(logits or model_logits(kind), tokenizer(kind), args, per_step=per_step)


def following(ids):
    """Counts up from the last number, for ever: tokens whose texts are known beforehand."""
    first, last = tokenizer().encode("0")[0], tokenizer().encode("59")[0]
    logits = np.zeros(len(tokenizer()))
    logits[ids[-1] + 1 if first <= ids[-1] < last else first] = 9.0
    return logits


def with_engine(work, chosen=None, **options):
    """Run a coroutine function on an engine over the fake, then see that nothing of it goes on."""
    chosen = chosen or llm()

    async def run():
        engine = VllmEngine(chosen, owned=True, **options)
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.aclose()
            assert chosen.is_shut
            assert chosen.running == {}

    return asyncio.run(run())


def in_process(work, kind="symbolic"):
    async def run():
        engine = TransformersEngine(model(kind), tokenizer(kind))
        try:
            return await work(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())


async def complete(engine, prompt="3 + 4", *, ledger=None, seed=0, sampling=GREEDY, **options):
    async with engine.open(prompt, ledger=ledger or Ledger(), sampling=sampling, seed=seed) as branch:
        return await branch.generate(**{"max_tokens": 40, **options})


def ids_of(chunk):
    return [token.id for token in chunk.tokens]


@pytest.mark.parametrize("per_step", [1, 3])
@pytest.mark.parametrize("kind", ["symbolic", "bpe"])
def test_greedy_tokens_and_texts_are_those_of_the_engine_in_process(kind, per_step):
    async def work(engine):
        return await asyncio.gather(*(complete(engine, prompt, max_tokens=24) for prompt in PROMPTS))

    chunks = with_engine(work, llm(kind, per_step=per_step))
    for ours, theirs in zip(chunks, in_process(work, kind), strict=True):
        assert (ids_of(ours), ours.text, ours.reason) == (ids_of(theirs), theirs.text, theirs.reason)
    assert len({chunk.text for chunk in chunks}) > 1


ENDS = {
    "stop": ({"stop": ["9 1"]}, " 5 6 7 8 ", 6),
    "kept stop": ({"stop": ["9 1"], "keep_stop": True}, " 5 6 7 8 9 1", 6),
    "late stop": ({"stop": ["9"], "min_tokens": 8}, " 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1", 15),
    "two stops": ({"stop": ["7", "6 7"]}, " 5 ", 3),
    "hook": ({"hook": lambda token: "8" in token.text}, " 5 6 7 8", 4),
    "limit": ({"max_tokens": 3}, " 5 6 7", 3),
}


@pytest.mark.parametrize("per_step", [1, 2, 5])
@pytest.mark.parametrize("name", ENDS)
def test_ends_follow_the_common_rules_and_what_came_after_them_is_counted(name, per_step):
    given, text, tokens = ENDS[name]
    chosen, ledger = llm(per_step=per_step, logits=following), Ledger()

    async def work(engine):
        async with engine.open("3", ledger=ledger, sampling=GREEDY) as branch:
            await branch.extend("4")
            first = await branch.generate(**{"max_tokens": 20} | given)
            return first, await branch.generate(max_tokens=2), branch.text

    first, second, whole = with_engine(work, chosen)
    assert (first.text, len(first.tokens)) == (text, tokens)
    assert whole == "4" + text + second.text
    assert ledger.generated == chosen.delivered >= tokens + 2
    assert chosen.sampled == chosen.delivered + chosen.lost
    if (name, per_step) == ("hook", 5):
        assert chosen.delivered >= tokens + 2 + 1, "vLLM was never ahead"
    # The next request goes on from the tokens of the text, and from no others.
    assert tokenizer().decode(chosen.requests[1].prompt) == "<|user|> 3 <|assistant|> 4" + text.rstrip()


def test_streams_hold_back_what_may_be_a_stop_string():
    async def work(engine):
        async with engine.open("3", ledger=Ledger(), sampling=GREEDY) as branch:
            await branch.extend("4")
            return [piece.text async for piece in branch.stream(max_tokens=20, stop=["7 8"])]

    assert with_engine(work, llm(logits=following)) == [" 5", " 5 6", " 5 6 ", " 5 6 "]


@pytest.mark.parametrize("kind", ["symbolic", "bpe"])
def test_forks_say_what_their_parent_says_and_share_its_account(kind):
    ledger = Ledger()

    async def work(engine):
        async with engine.open("3 + 4", ledger=ledger, sampling=GREEDY) as branch:
            first = await branch.generate(max_tokens=12)
            forks = [await branch.fork(back=back) for back in (0, 1, 5, 12)]
            second = await branch.generate(max_tokens=8)
            again = [await fork.generate(max_tokens=20) for fork in forks]
            texts = [fork.text for fork in forks]
            await forks[2].close("kept")
            for fork in forks:
                await fork.close("discarded")
            return first, second, again, texts, branch.text

    first, second, again, texts, text = with_engine(work, llm(kind))
    line = ids_of(first) + ids_of(second)
    for back, chunk, whole in zip((0, 1, 5, 12), again, texts, strict=True):
        assert ids_of(chunk)[: 8 + back] == line[12 - back :]
        assert whole.startswith(text)
    # Of the first generation, the fork that was kept shares all but the last five.
    assert ledger.tokens(fate="kept") == 12 - 5 + 20
    assert ledger.generated == 12 + 8 + 4 * 20


def test_forks_go_no_further_back_than_the_last_generation():
    async def work(engine):
        async with engine.open("3 + 4", ledger=Ledger(), sampling=GREEDY) as branch:
            await branch.generate(max_tokens=4)
            fork = await branch.fork(back=3)
            with pytest.raises(RecipeError, match="has 1 tokens"):
                await fork.fork(back=2)
            assert (await fork.fork(back=1)).text == ""
            await branch.extend("so")
            with pytest.raises(LaunchError, match="forced text"):
                await branch.fork(back=1)

    with_engine(work)


def test_prefix_cache_hits_are_reported_once_per_branch():
    ledger = Ledger()

    async def work(engine):
        async with engine.open(PROMPTS[3], ledger=ledger, sampling=GREEDY) as branch:
            await branch.generate(max_tokens=10)
            await branch.generate(max_tokens=10)
            fork = await branch.fork()
            await fork.generate(max_tokens=3)

    chosen = llm(logits=following)
    with_engine(work, chosen)
    shared = ledger.prompt + 20
    # Whole blocks of what the fork shares, its newest token excluded.
    assert ledger.cached == (shared - 1) // chosen.block * chosen.block


STEP = st.tuples(
    st.sampled_from(["generate", "stop", "force", "fork", "back", "close", "cancel"]),
    st.integers(0, 3),
    st.integers(1, 6),
    st.sampled_from(ROLES),
    st.sampled_from(FATES),
)


async def act(engine, ledger, steps):
    branches = [engine.open("3", ledger=ledger, seed=seed, sampling=GREEDY) for seed in range(2)]
    forced = 0
    for action, which, count, role, fate in steps:
        branch = branches[which % len(branches)]
        if branch.account.closed:
            continue
        if action == "generate":
            await branch.generate(max_tokens=count, role=role)
        elif action == "stop":
            await branch.generate(max_tokens=12, stop=[f"{count}"], role=role)
        elif action == "force":
            await branch.extend("1 " * count)
            forced += count
        elif action == "fork":
            branches.append(await branch.fork())
        elif action == "back":
            said = await branch.generate(max_tokens=6, role=role)
            branches.append(await branch.fork(back=min(count, len(said.tokens))))
        elif action == "close":
            await branch.close(fate)
        else:
            task = asyncio.create_task(branch.generate(max_tokens=50, role=role))
            for _ in range(3 * count):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    for branch in branches:
        await branch.close("discarded")
    return forced


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=10), per_step=st.integers(1, 3))
def test_nothing_is_lost_or_counted_twice(steps, per_step):
    chosen, ledger = llm(per_step=per_step, logits=following), Ledger()
    forced = with_engine(lambda engine: act(engine, ledger, steps), chosen)
    table = ledger.by_role_and_fate()
    assert ledger.generated == chosen.delivered == sum(map(sum, (row.values() for row in table.values())))
    assert chosen.sampled == chosen.delivered + chosen.lost
    assert ledger.forced == forced
    assert ledger.exact


def test_a_cancelled_task_frees_its_request_at_once_even_before_vllm_knows_it():
    chosen, ledger = llm(logits=following), Ledger()

    async def work(engine):
        for turns in (1, 2, 3, 30):
            task = asyncio.create_task(complete(engine, ledger=ledger, max_tokens=100))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
            assert chosen.running == {}

    with_engine(work, chosen)
    assert 0 < ledger.generated == chosen.delivered < 100


def test_closing_a_branch_ends_its_generation():
    ledger = Ledger()

    async def work(engine):
        branch = engine.open("3", ledger=ledger, sampling=GREEDY)
        task = asyncio.create_task(branch.generate(max_tokens=100))
        while not engine.llm.delivered:
            await asyncio.sleep(0)
        with pytest.raises(LaunchError, match="is generating"):
            await branch.generate(max_tokens=1)
        early = await branch.fork()
        assert early.text == ""
        with pytest.raises(RecipeError, match="has 0 tokens"):
            await early.fork(back=1)
        await branch.close("kept")
        with pytest.raises(LaunchError, match="closed while it generated"):
            await task
        with pytest.raises(LaunchError, match="is closed"):
            await branch.generate(max_tokens=1)

    chosen = llm(logits=following)
    with_engine(work, chosen)
    assert 0 < ledger.generated == chosen.delivered < 100


@pytest.mark.parametrize("sampled", ["most likely", "outside"])
def test_log_probabilities_are_the_models_own_and_never_one_too_many(sampled):
    rare = tokenizer().encode("59")[0]
    bias = None if sampled == "most likely" else {rare: 100.0}

    async def work(engine):
        return await complete(engine, max_tokens=5, top_logprobs=3, bias=bias)

    chosen = llm()
    chunk = with_engine(work, chosen)
    ids = list(chosen.requests[0].prompt)
    for token in chunk.tokens:
        expected = torch.tensor(model_logits("symbolic")(ids)).log_softmax(-1)
        assert token.logprob == pytest.approx(float(expected[token.id]))
        assert token.top == pytest.approx(expected.topk(3).values.tolist())
        assert (token.id == rare) == (sampled == "outside")
        ids.append(token.id)
    assert len(chunk.logprobs) == 5


def test_end_of_sequence_waits_for_min_tokens_and_is_counted():
    end = tokenizer().eos_token_id
    flat = np.zeros(len(tokenizer()))
    flat[end] = 5.0

    async def work(engine):
        return await complete(engine, max_tokens=9, min_tokens=4)

    ledger_chunk = with_engine(work, llm(logits=lambda ids: flat))
    assert [token.id == end for token in ledger_chunk.tokens] == [False] * 4 + [True]
    assert ledger_chunk.reason == "eos"
    assert end not in tokenizer().encode(ledger_chunk.text)


def test_every_end_of_the_generation_config_ends_a_sequence():
    other = tokenizer().encode("8")[0]
    chosen = fake.AsyncLLM(
        following, tokenizer(), generation_config={"eos_token_id": [tokenizer().eos_token_id, other]}
    )

    async def work(engine):
        return await complete(engine, "3 4")

    chunk = with_engine(work, chosen)
    # From the last token of the template on: 0, 1, ..., 8.
    assert (chunk.ended, chunk.text, len(chunk.tokens)) == (True, "0 1 2 3 4 5 6 7", 9)


def test_seeds_reproduce_and_forks_draw_their_own_numbers():
    drawn = Sampling(temperature=1.0)

    async def work(engine):
        same = [ids_of(await complete(engine, seed=1, sampling=drawn, max_tokens=12)) for _ in range(2)]
        other = ids_of(await complete(engine, seed=2, sampling=drawn, max_tokens=12))
        async with engine.open("3", ledger=Ledger(), sampling=drawn, seed=1) as branch:
            forks = [await branch.fork(), await branch.fork(), branch]
            await asyncio.gather(*(fork.generate(max_tokens=12) for fork in forks))
            return same, other, {fork.text for fork in forks}

    (one, two), other, forks = with_engine(work)
    assert one == two != other
    assert len(forks) == 3


def thinks(ids):
    """Thinks for ever."""
    (opening,) = tokenizer().encode(TAGS[0])
    logits = following(ids)
    if opening not in ids:
        logits[opening] = 20.0
    return logits


BUDGET = {"reasoning_config": fake.ReasoningConfig(reasoning_start_str=TAGS[0], reasoning_end_str=TAGS[1])}


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_thinking_budget_is_kept_over_all_generations_of_a_branch(budget):
    async def work(engine):
        async with engine.open("3", ledger=Ledger(), sampling=GREEDY) as branch:
            await branch.generate(max_tokens=4)
            await branch.generate(max_tokens=20)
            return branch.text

    text = with_engine(work, llm(logits=thinks, **BUDGET), thinking_token_budget=budget)
    thinking = text.partition(TAGS[0])[2].partition(TAGS[1])[0]
    assert len(thinking.split()) == budget
    assert TAGS[1] in text


def test_a_thinking_budget_that_vllm_did_not_keep_is_an_error_with_every_token_counted():
    chosen, ledger = llm(logits=thinks, **BUDGET), Ledger()
    chosen.ignores_budget = True

    async def work(engine):
        await complete(engine, "3", max_tokens=6, ledger=ledger)
        with pytest.raises(LaunchError, match="for 6 tokens, where thinking_token_budget=5 left 5"):
            await complete(engine, "3", max_tokens=7, ledger=ledger)
        async with engine.open("3", ledger=ledger, sampling=GREEDY) as branch:
            await branch.generate(max_tokens=4)
            with pytest.raises(LaunchError, match="for 3 tokens, where thinking_token_budget=5 left 2"):
                await branch.generate(max_tokens=3)

    with_engine(work, chosen, thinking_token_budget=5)
    assert ledger.generated == 6 + 7 + 4 + 3


@pytest.mark.parametrize(
    ("pieces", "given", "expected"),
    [
        (["7"], {}, []),
        (["<think>", " a", " b", " </think>", " 7"], {}, [(0, 2)]),
        (["a", " b"], {"opens": True}, [(0, 2)]),
        (["<think>", " a", " b", " c"], {"new_from": 2}, [(1, 2)]),
        (["<think>", " a", "</think>", "<think>", " b", " c"], {"new_from": 3}, [(1, 0), (0, 2)]),
        # Tags of several tokens, some of which hold more than the tag.
        (["<th", "ink>\n", "a", "", "é", "</", "think", ">7"], {}, [(0, 3)]),
        (["<think>", " a", " <think>", " b", " c"], {"new_from": 4}, [(1, 1)]),
    ],
)
def test_thinking_is_measured_between_the_tags(pieces, given, expected):
    assert thinking_sections(pieces, TAGS, **given) == expected


def test_what_cannot_be_asked_for_is_refused_before_vllm_hears_of_it():
    chosen = llm(max_model_len=64)

    async def work(engine):
        for wish, error, words in (
            ({"max_tokens": 63, "prompt": PROMPTS[3]}, DataError, "exceed the 64"),
            ({"sampling": Sampling(temperature=3.0)}, RecipeError, "temperature must be in"),
            ({"sampling": Sampling(top_p=0.0)}, RecipeError, "top_p"),
            ({"top_logprobs": 21}, LaunchError, "reports 20"),
            ({"bias": {len(tokenizer()): 1.0}}, RecipeError, "bias on token"),
            ({"max_tokens": 0}, RecipeError, "max_tokens"),
        ):
            with pytest.raises(error, match=words):
                await complete(engine, **{"max_tokens": 8} | wish)

    with_engine(work, chosen)
    assert chosen.requests == []


def test_without_signals_there_are_no_log_probabilities():
    async def work(engine):
        assert not engine.capabilities & {Capability.LOGPROBS, Capability.TOP_LOGPROBS, Capability.ENTROPY}
        with pytest.raises(LaunchError, match="signals=True"):
            await complete(engine, top_logprobs=2)
        return await complete(engine, max_tokens=2)

    assert [token.logprob for token in with_engine(work, signals=False).tokens] == [None, None]


def test_a_dead_engine_is_an_error_that_keeps_what_was_said_before_it():
    chosen, ledger = llm(logits=following), Ledger()
    chosen.dies_after = 5

    async def work(engine):
        with pytest.raises(LaunchError, match="EngineCore encountered"):
            await complete(engine, ledger=ledger)

    with_engine(work, chosen)
    # The error takes the place of a delta that nobody has read yet.
    assert 3 <= chosen.delivered - 1 <= ledger.generated <= chosen.delivered <= 5


def test_an_engine_that_was_lent_is_left_running():
    chosen = llm()

    async def run():
        await VllmEngine(chosen).aclose()

    asyncio.run(run())
    assert not chosen.is_shut


POLICIES = {
    "plain": {},
    "think_budget": {"opens": True, "maximum": 6, "transition": " ="},
    "answer_consistency": {"at": ["1", "2"], "threshold": 2, "suffix": " ="},
    "self_consistency": {"samples": 3},
    "best_of_n": {"samples": 3},
    "fractured": {},
}


async def shortest(prompt, texts):
    return [-len(text) for text in texts]


@pytest.mark.parametrize("name", POLICIES)
def test_policies_come_to_what_they_come_to_in_process(name):
    policy = find(name).build(POLICIES[name])

    async def work(engine):
        ledger = Ledger()
        ask = Ask(engine, "3 + 4", ledger, sampling=Sampling(temperature=0, max_tokens=24), scorer=shortest)
        answer = await run_policy(policy, ask)
        return answer.text, answer.answer, ledger.by_role_and_fate(), ledger.forced, ledger.prompt

    chosen = llm()
    ours = with_engine(work, chosen)
    assert ours == in_process(work)
    assert chosen.delivered == sum(sum(row.values()) for row in ours[2].values())


def saved(folder):
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def read(args):
    """What vLLM would do with the arguments it was started with."""
    chosen = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    return logits_of(chosen), tokenizer()


def test_a_folder_is_opened_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(fake.AsyncLLM, "loads", staticmethod(read))
    opened = open_engine(f"vllm:{saved(tmp_path)}", dtype="float64")
    assert (opened.eos_ids, opened.opens_thinking) == ({tokenizer().eos_token_id}, False)
    args = opened.engine.llm.args
    assert (args.enable_prefix_caching, args.dtype, args.reasoning_config) == (True, "float64", None)

    async def work(engine):
        return [ids_of(await complete(engine, prompt)) for prompt in PROMPTS[:3]]

    async def run():
        ids = await work(opened.engine)
        await opened.engine.aclose()
        return ids

    assert asyncio.run(run()) == in_process(work)
    assert opened.engine.llm.is_shut


def test_load_hands_on_what_vllm_is_to_be_started_with(tmp_path, monkeypatch):
    monkeypatch.setattr(fake.AsyncLLM, "loads", staticmethod(read))
    given = {"dtype": "float64", "max_model_len": 99, "max_num_seqs": 5, "revision": "main"}
    engine = VllmEngine.load(saved(tmp_path), **given, thinking_token_budget=7)
    args = engine.llm.args
    assert {key: getattr(args, key) for key in given} == given
    assert (args.reasoning_config.reasoning_start_str, args.reasoning_config.reasoning_end_str) == TAGS
    assert engine.slots == 5
    with pytest.raises(RecipeError, match="thinking_token_budget: -1"):
        VllmEngine(engine.llm, thinking_token_budget=-1)


def test_a_lora_folder_starts_its_base_and_every_request_names_the_adapter(tmp_path, monkeypatch):
    monkeypatch.setattr(fake.AsyncLLM, "loads", staticmethod(read))
    base, adapter = saved(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    config = {"base_model_name_or_path": str(base), "r": 4, "rank_pattern": {"q_proj": 12}}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    engine = VllmEngine.load(adapter, dtype="float64")
    assert (engine.llm.args.model, engine.llm.args.enable_lora) == (str(base), True)
    assert engine.llm.args.max_lora_rank == 16, "the smallest that vLLM takes and that fits rank 12"
    asyncio.run(complete(engine, max_tokens=1))
    assert [request.lora.lora_path for request in engine.llm.requests] == [str(adapter)]


def test_what_cannot_be_loaded_is_said_with_its_cure(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no such model folder"):
        VllmEngine.load(tmp_path / "absent")
    with pytest.raises(LaunchError, match="without the tags"):
        VllmEngine(llm(), thinking_token_budget=3)
    monkeypatch.setitem(sys.modules, "vllm", None)
    for make in (lambda: VllmEngine.load(tmp_path), lambda: VllmEngine(llm())):
        with pytest.raises(LaunchError, match="not installed") as caught:
            make()
        assert "laconic[vllm]" in caught.value.cure
