"""Episodes over a real server, and the token ids that every engine gives of a branch."""

import asyncio
import importlib.util
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.engines.transformers import TransformersEngine
from laconic.inference.engines.vllm import VllmEngine
from laconic.inference.episode import PROTOCOLS, run_episode
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask
from laconic.inference.retrieval.documents import Document, Hit
from laconic.training.scratch import bpe_tokenizer

SPEC = importlib.util.spec_from_file_location("fake_vllm", Path(__file__).with_name("fake_vllm.py"))
GREEDY = Sampling(temperature=0, max_tokens=400)


class Lake:
    """Finds the lake."""

    async def search(self, queries, *, k):
        return [[Hit(Document("7", "It lies in the Andes.", "Lake"), 2.0)] for _ in queries]

    async def aclose(self):
        pass


SEEN = '\n\n<information>Doc 1(Title: "Lake") It lies in the Andes.</information>\n\n'
SAID = ["<search>lake</search>", "hm</search>", "<answer>Andes</answer>"]
HINT = PROTOCOLS["search_r1"].hint
WHOLE = SAID[0] + SEEN + SAID[1] + HINT + SAID[2]


@pytest.mark.parametrize("token_ids", [True, False])
def test_an_episode_over_a_server(fault_server, token_ids):
    fault_server.say = lambda body: tuple(WHOLE)

    async def go():
        async with fault_server.raw(token_ids=token_ids, tokenizer=fault_server.tokenizer) as engine:
            ask = Ask(engine, "q", Ledger(), sampling=GREEDY)
            return await run_episode(ask, Lake(), protocol="search_r1")

    episode = asyncio.run(asyncio.wait_for(go(), 60))
    assert [piece.text for piece in episode.pieces] == [SAID[0], SEEN, SAID[1], HINT, SAID[2]]
    assert (episode.answer, episode.invalid, len(episode.searches)) == ("Andes", 1, 1)
    # One character is one token.
    assert episode.generated_tokens == episode.ledger.generated == sum(map(len, SAID))
    assert (episode.retrieved_tokens, episode.forced_tokens) == (len(SEEN), 218)
    if token_ids:
        assert episode.ids == tuple(map(ord, WHOLE))
        spans = [(1, SAID[0]), (0, SEEN), (1, SAID[1]), (0, HINT), (1, SAID[2])]
        assert episode.loss_mask() == tuple(value for value, text in spans for _ in text)
    else:
        assert [piece.ids for piece in episode.pieces] == [None] * 5


@cache
def tokenizer():
    return bpe_tokenizer(["<search> lake </search>\n\n<information> né 3 + 4 = 7 </information>"] * 3, vocab_size=330)


@cache
def model():
    tokens = tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    config = AutoConfig.for_model("llama", vocab_size=len(tokens), max_position_embeddings=256, **sizes, **ends)
    torch.manual_seed(1)
    chosen = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in chosen.parameters():
            weight.mul_(5.0 if weight.ndim > 1 else 1.0)
    return chosen


async def ids_along(engine, stop):
    """Of a branch that is cut by a stop string, goes on after forced text, and is forked."""
    async with engine.open("3 + 4 =", ledger=Ledger(), sampling=GREEDY) as branch:
        seen = [branch.ids]
        await branch.generate(max_tokens=30, stop=[stop], keep_stop=True)
        seen.append(branch.ids)
        await branch.extend("\n\n<information> 7 </information>")
        seen.append(branch.ids)
        await branch.generate(max_tokens=5)
        seen.append(branch.ids)
        async with await branch.fork() as fork:
            await fork.extend(" 3")
            return seen, fork.ids, branch.ids


def test_engines_agree_on_ids_and_earlier_ones_never_change():
    async def in_process():
        engine = TransformersEngine(model(), tokenizer())
        try:
            async with engine.open("3 + 4 =", ledger=Ledger(), sampling=GREEDY) as branch:
                texts = [token.text for token in (await branch.generate(max_tokens=30)).tokens]
            # Up to the middle of the first token of several characters, from the token before it on.
            cut = next(at for at, text in enumerate(texts) if at and len(text) > 2)
            stop = texts[cut - 1] + texts[cut][:-1]
            return stop, await ids_along(engine, stop)
        finally:
            await engine.aclose()

    async def over_vllm(stop):
        fake = sys.modules["fake_vllm"]
        logits = cache(lambda ids: model()(torch.tensor([ids])).logits[0, -1].double().numpy())
        with torch.no_grad():
            llm = fake.AsyncLLM(lambda ids: logits(tuple(ids)), tokenizer(), fake.AsyncEngineArgs(model="given"))
            engine = VllmEngine(llm, owned=True)
            try:
                return await ids_along(engine, stop)
            finally:
                await engine.aclose()

    stop, mine = asyncio.run(asyncio.wait_for(in_process(), 60))
    if "fake_vllm" not in sys.modules:
        sys.modules["fake_vllm"] = importlib.util.module_from_spec(SPEC)
        SPEC.loader.exec_module(sys.modules["fake_vllm"])
    with pytest.MonkeyPatch.context() as patch:
        sys.modules["fake_vllm"].install(patch)
        assert asyncio.run(asyncio.wait_for(over_vllm(stop), 60)) == mine
    seen, fork, now = mine
    assert seen[0] == ()
    assert tokenizer().decode(list(seen[1])).endswith(stop)
    for before, after in pairwise(seen):
        assert after[: len(before)] == before
        assert len(after) > len(before)
    assert (fork[: len(now)], now) == (now, seen[-1])
    assert fork[len(now) :] == tuple(tokenizer()(" 3", add_special_tokens=False)["input_ids"])


def test_a_script_has_no_ids():
    branch = ScriptedEngine(lambda context: ["a"]).open("q", ledger=Ledger())
    assert branch.ids is None
