"""Engines by name: a folder is decoded here, an address is asked, and each mistake has its message."""

import asyncio

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from laconic.inference.engine import Capability, Sampling
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.opening import open_engine
from laconic.inference.policies import POLICIES, run_policy
from laconic.rewards.errors import LaunchError, ModelError
from laconic.training.scratch import symbolic_tokenizer


@pytest.fixture
def model_folder(tmp_path):
    tokenizer = symbolic_tokenizer("0123456789+=;")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def answered(opened, **fields):
    async def ask():
        asked = opened.ask("3 + 4 =", **{"sampling": Sampling(max_tokens=8, temperature=0)} | fields)
        try:
            return await run_policy(POLICIES["plain"].build(), asked)
        finally:
            await opened.engine.aclose()

    return asyncio.run(ask())


def test_a_folder_is_decoded_here(model_folder):
    opened = open_engine(str(model_folder), signals=False)
    assert isinstance(opened.engine, TransformersEngine)
    assert (opened.name, opened.opens_thinking) == (str(model_folder), False)
    assert opened.tokenizer.eos_token_id in opened.eos_ids
    assert Capability.ENTROPY not in opened.engine.capabilities
    answer = answered(opened)
    assert 1 <= answer.ledger.generated <= 8
    assert answer.ledger.prompt == len(opened.tokenizer("<|user|>3 + 4 =<|assistant|>")["input_ids"])


def test_an_address_is_asked(fault_server):
    opened = open_engine(f"{fault_server.url}#tiny", batch_size=3)
    assert opened.engine.slots == 3
    assert answered(opened).answer == "7"
    assert fault_server.requests[0]["model"] == "tiny"


def test_a_server_is_asked_for_an_effort_in_its_own_way(fault_server):
    opened = open_engine(f"{fault_server.url}#tiny", server="compatible+enable_thinking")
    assert Capability.EFFORT in opened.engine.capabilities
    answered(opened, sampling=Sampling(max_tokens=8, effort="none"))
    assert fault_server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("http://127.0.0.1:9/v1", {}, LaunchError, "which model"),
        ("/no/such/folder", {}, ModelError, "no such model folder"),
        ("http://127.0.0.1:9/v1#m", {"tokenizer": "./no/such/folder"}, LaunchError, "no tokenizer"),
        ("./folder", {"tokenizer": "x"}, LaunchError, "for servers only"),
        ("./folder", {"server": "vllm"}, LaunchError, "for servers only"),
    ],
    ids=["no model", "no folder", "no tokenizer", "tokenizer of a folder", "server"],
)
def test_mistakes_are_named(name, options, error, says):
    with pytest.raises(error, match=says):
        open_engine(name, **options)
