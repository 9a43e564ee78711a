"""Listening over engines with real tokens: characters of several tokens, stop strings inside tokens, a server."""

import asyncio

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Sampling
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.boost import EndOfThinkBoost
from laconic.inference.policies.budget import ThinkBudget
from laconic.inference.policies.consistency import AnswerConsistency
from laconic.inference.policies.plain import Plain
from laconic.training.scratch import bpe_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer(["äöü für 3 + 4 … and, so on. Wait ☃"] * 20, vocab_size=400)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


@pytest.mark.parametrize(
    "policy",
    [
        Plain(),
        # A switch that ends in the middle of what may be a character, and an opening that makes it think at all.
        ThinkBudget(minimum=30, maximum=40, ignored_ends=2, switches=("\n☃ Wait",), transition=" …", opens=True),
        EndOfThinkBoost(close_id=5, boost=3.0, growth=0.1, every=7),
        AnswerConsistency(threshold=2, every=9, at=(), probe_tokens=3, suffix="ü", concurrent=True),
    ],
    ids=lambda policy: type(policy).__name__,
)
@pytest.mark.parametrize("seed", [0, 2])
def test_a_model_in_this_process_is_heard_to_the_last_character(policy, seed, model, tokenizer):
    async def run(listener):
        engine = TransformersEngine(model, tokenizer)
        ask = Ask(engine, "3 + 4", Ledger(), Sampling(max_tokens=60), seed=seed, opens_thinking=True, listener=listener)
        try:
            return await run_policy(policy, ask)
        finally:
            await engine.aclose()

    heard = []
    answer = asyncio.run(run(heard.append))
    assert "".join(heard) == answer.text
    assert len(heard) > 1
    silent = asyncio.run(run(None))
    assert (silent.text, silent.ledger.by_role_and_fate()) == (answer.text, answer.ledger.by_role_and_fate())


def test_a_server_is_heard_event_by_event(fault_server):
    async def run():
        async with fault_server.engine() as engine:
            heard = []
            answer = await run_policy(Plain(), Ask(engine, "q", Ledger(), listener=heard.append))
            return answer, heard

    answer, heard = asyncio.run(asyncio.wait_for(run(), 60))
    assert answer.text == "".join(heard) == "".join(fault_server.tokens)
    assert len(heard) > 1
