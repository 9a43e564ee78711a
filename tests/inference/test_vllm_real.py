"""The same engine over vLLM itself, where it is installed: a small model, on whatever device vLLM was built for.

On a CPU, `vllm` may be a CPU build of it; set ``VLLM_CPU_KVCACHE_SPACE=1`` (GiB).
"""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Sampling
from laconic.inference.engines.vllm import VllmEngine
from laconic.inference.ledger import Ledger
from laconic.training.scratch import symbolic_tokenizer

pytest.importorskip("vllm.v1.engine.async_llm", reason="vLLM is not installed")

GREEDY = Sampling(temperature=0)
PROMPTS = [" ".join(str((7 * i + 3 * j) % 60) for j in range(1 + (5 * i) % 17)) for i in range(12)]
BUDGET = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokens = symbolic_tokenizer([str(number) for number in range(60)] + list("+-*/=;"))
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokens),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def runner():
    # vLLM belongs to the event loop in which it was used first.
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def engine(folder, runner):
    engine = VllmEngine.load(folder, dtype="float32", max_model_len=256, max_num_seqs=16, enforce_eager=True)
    yield engine
    runner.run(engine.aclose())


async def complete(engine, prompt, *, ledger=None, seed=0, sampling=GREEDY, **options):
    async with engine.open(prompt, ledger=ledger or Ledger(), sampling=sampling, seed=seed) as branch:
        return await branch.generate(**{"max_tokens": 40, **options})


def ids_of(chunk):
    return [token.id for token in chunk.tokens]


def test_greedy_tokens_and_log_probabilities_are_those_of_the_model(engine, folder, runner):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    async def work():
        return await asyncio.gather(*(complete(engine, prompt, top_logprobs=3) for prompt in PROMPTS))

    for prompt, chunk in zip(PROMPTS, runner.run(work()), strict=True):
        ids = torch.tensor([engine.encode(f"<|user|>{prompt}<|assistant|>")])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
        assert ids_of(chunk) == said[0, ids.shape[1] :].tolist()
        with torch.inference_mode():
            expected = model(said).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        for token, row in zip(chunk.tokens, expected, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-3)
            assert token.top == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)


def test_ends_cancellations_and_forks_keep_the_account(engine, runner):
    async def work():
        ledger, count = Ledger(), 0
        whole = max([await complete(engine, prompt) for prompt in PROMPTS], key=lambda chunk: len(chunk.tokens))
        prompt = PROMPTS[[ids_of(await complete(engine, prompt)) for prompt in PROMPTS].index(ids_of(whole))]
        async with engine.open(prompt, ledger=ledger, sampling=GREEDY) as branch:
            first = await branch.generate(max_tokens=20)
            fork = await branch.fork(back=8)
            second, again = await asyncio.gather(branch.generate(max_tokens=10), fork.generate(max_tokens=18))
            assert ids_of(first) + ids_of(second) == ids_of(first)[:12] + ids_of(again)
            count = 20 + 10 + 18
            assert ledger.generated == count
            hooked = await fork.generate(max_tokens=50, min_tokens=50, hook=lambda token: True)
            assert (hooked.reason, len(hooked.tokens)) == ("hook", 1)
            assert 1 <= ledger.generated - count < 50
            task = asyncio.create_task(branch.generate(max_tokens=150, min_tokens=150))
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
            assert engine.llm.get_num_unfinished_requests() == 0
            await fork.close("kept")
        stop = whole.text.split()[5]
        async with engine.open(prompt, ledger=Ledger(), sampling=GREEDY) as branch:
            chunk = await branch.generate(max_tokens=40, stop=[stop], keep_stop=True)
            assert whole.text.startswith(chunk.text)
            assert chunk.text.endswith(stop)
            # A stop string of one token ends the request in vLLM: nothing is decoded beyond it.
            assert branch.account.ledger.generated == len(chunk.tokens)

    runner.run(work())


def test_seeds_reproduce_and_a_bias_is_added(engine, runner):
    async def work():
        drawn = [
            ids_of(await complete(engine, PROMPTS[2], seed=seed, sampling=Sampling(), max_tokens=10))
            for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
        (seven,) = engine.encode("7")
        assert ids_of(await complete(engine, PROMPTS[2], bias={seven: 100.0}, max_tokens=5)) == [seven] * 5

    runner.run(work())


def test_a_thinking_budget_is_kept(folder, runner):
    async def work():
        options = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True}
        engine = VllmEngine.load(folder, thinking_token_budget=BUDGET, **options)
        try:
            bias = {engine.encode("</think>")[0]: -100.0}
            async with engine.open(PROMPTS[4], ledger=Ledger(), sampling=GREEDY) as branch:
                await branch.extend("<think> 1")
                # The end comes by force alone; the first generation stops before it.
                await branch.generate(max_tokens=1, bias=bias)
                await branch.generate(max_tokens=20, bias=bias)
                thinking = engine.encode(branch.text.partition("<think>")[2].partition("</think>")[0])
                assert len(thinking) == BUDGET
        finally:
            await engine.aclose()

    runner.run(work())
