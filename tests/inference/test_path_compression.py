"""Reasoning-path compression: the authors' kept positions, and a model decoded by hand that sees no others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from laconic.inference.engine import Sampling
from laconic.inference.engines.draw import draw, random_numbers
from laconic.inference.engines.loading import encode_prompt
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.path_compression import ReasoningPathCompression, keep_positions, kv_share
from laconic.inference.policies.plain import Plain
from laconic.rewards.errors import RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())["rpc.keep_positions"]
PROMPT = "3 + 4 ="


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("kernel", [1, 3])
def test_kept_positions_golden(kernel):
    given = GOLDEN["input"]
    keys = np.zeros(given["prompt_len"] + given["P"] + given["R"])
    for place, value in given["key_first_coord_at_position"].items():
        keys[int(place)] = value
    # A unit vector as query, and heads of 4: the logits are half of the keys' first coordinates.
    attention = np.tile(softmax(keys / 2), (given["R"], 1))
    kept = keep_positions(
        attention, prompt=given["prompt_len"], keep=given["P"] // given["c"], recent=given["R"], pool=kernel
    )
    assert kept == GOLDEN["output"][f"kernel{kernel}"]


def test_every_query_counts_the_same_however_much_it_looks_elsewhere():
    # The first query looks at position 1 with nearly all of what it has left over, the others at 2 with less of more.
    attention = np.array([[0.9, 0.08, 0.02, 0.0], [0.1, 0.35, 0.55, 0.0], [0.1, 0.4, 0.5, 0.0]])
    shares = attention[:, 1:3] / attention[:, 1:3].sum(axis=1, keepdims=True)
    assert (shares.sum(axis=0).argmax(), attention[:, 1:3].sum(axis=0).argmax()) == (0, 1)
    assert keep_positions(attention, prompt=1, keep=1, recent=1, pool=1) == [0, 1, 3]


@pytest.mark.parametrize(("at", "kept"), [([], []), ([6], [7]), ([4, 7, 9], [5, 7, 8])])
def test_share_of_the_cache_by_counting(at, kept):
    prompt, steps = 3, 10
    size, sizes = prompt, []
    for step in range(1, steps + 1):
        size += 1
        sizes.append(size)
        size = dict(zip(at, kept, strict=True)).get(step, size)
    assert kv_share(prompt, steps, at, kept) == pytest.approx(sum(sizes) / sum(range(prompt + 1, prompt + steps + 1)))


def ask(engine, *, max_tokens=40, seed=0):
    return Ask(engine, PROMPT, Ledger(), sampling=Sampling(max_tokens=max_tokens), opens_thinking=True, seed=seed)


def by_hand(model, tokenizer, rule, prompt, max_tokens, seed):
    """Tokens of a model of one layer, where only the last token of a full pass counts, and sees what is kept."""
    numbers = random_numbers(seed)
    ids = list(encode_prompt(tokenizer, prompt))
    model.set_attn_implementation("eager")
    visible, due, thinnings, start = list(range(len(ids))), rule.every + rule.recent, 0, len(ids)

    def forward():
        seen = torch.zeros(len(ids), len(ids), dtype=torch.bool)
        seen[:, visible] = True
        mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen.tril(), -1e9)[None, None]
        with torch.no_grad():
            return model(torch.tensor([ids]), attention_mask=mask, output_attentions=True)

    for left in range(max_tokens, 0, -1):
        number = torch.tensor([numbers.random()], dtype=torch.float64)
        ids.append(draw(forward().logits[:, -1], number, Sampling()).item())
        visible.append(len(ids) - 1)
        due -= 1
        if due == 0 and left > 1:
            thinnings, due = thinnings + 1, rule.every
            weights = forward().attentions[0][0].mean(0)[-rule.recent :, visible].numpy()
            keep = int(thinnings * rule.every / rule.ratio)
            kept = keep_positions(weights, prompt=start, keep=keep, recent=rule.recent, pool=rule.pool)
            visible = [visible[place] for place in kept]
    return ids[start:]


def test_the_model_goes_on_as_if_it_had_never_seen_what_was_thinned_out(on_tiny_model):
    rule = ReasoningPathCompression(every=8, ratio=4, recent=3, pool=3)

    async def work(engine):
        thinned = await run_policy(rule, ask(engine, seed=2))
        whole = await run_policy(Plain(), ask(engine, seed=2))
        untouched = await run_policy(replace(rule, every=40), ask(engine, seed=2))
        return thinned, whole, untouched, engine.model, engine.tokenizer

    thinned, whole, untouched, model, tokenizer = on_tiny_model(work, layers=1, seed=1)
    assert thinned.text != whole.text, "thinning out made no difference, so this test shows nothing"
    assert (untouched.text, untouched.notes) == (whole.text, {"kept": [], "kv_share": 1.0})
    ids = by_hand(model, tokenizer, rule, PROMPT, 40, 2)
    assert thinned.text == tokenizer.decode([i for i in ids if i != tokenizer.pad_token_id])
    prompt = len(encode_prompt(tokenizer, PROMPT))
    # After 11, 19, 27 and 35 tokens: 2, 4, 6, 8 of the middle and the newest 3.
    assert thinned.notes["kept"] == [prompt + 5, prompt + 7, prompt + 9, prompt + 11]
    assert thinned.notes["kv_share"] == pytest.approx(kv_share(prompt, 40, [11, 19, 27, 35], thinned.notes["kept"]))
    assert thinned.ledger.generated == whole.ledger.generated == 40
    assert thinned.ledger.by_role_and_fate() == whole.ledger.by_role_and_fate()
    assert thinned.ledger.forced == 0


def test_layers_keep_what_they_look_at(on_tiny_model):
    rule = ReasoningPathCompression(every=6, ratio=3, recent=2, pool=1)

    async def work(engine):
        answer = await run_policy(rule, ask(engine, max_tokens=30))
        return answer, len(encode_prompt(engine.tokenizer, PROMPT))

    answer, prompt = on_tiny_model(work, layers=3)
    assert answer.notes["kept"] == [prompt + 2 * (count + 1) + 2 for count in range(len(answer.notes["kept"]))]
    assert len(answer.notes["kept"]) == (answer.ledger.generated - 2 - 1) // 6


def test_wrong_parameters_are_refused():
    assert POLICIES["reasoning_path_compression"].policy is ReasoningPathCompression
    for wrong in ({"pool": 4}, {"pool": 0}, {"recent": 0}, {"ratio": 0.5}, {"every": 2, "ratio": 4}):
        with pytest.raises(RecipeError):
            ReasoningPathCompression(**wrong)
