"""Tokens are scored as TRL scores them, with less work."""

import copy
import itertools
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from laconic.training import scoring
from laconic.training.micro_batches import LEAST_SHARED, PER_ROUND, plan_rounds, shares
from laconic.training.rows import RowEncoder, sft_dataset
from laconic.training.scoring import lean_forward

SMALL = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
KINDS = {
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, attention_bias=True),
}
TEMPERATURE = 0.7
OUTPUTS = ("log_probs", "entropy", "is_top1")


def model_of(config, attention="sdpa"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # next tokens are not all equally likely
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=OUTPUTS)
    return model


def rollouts(*, prompts=(3, 9, 7), group=3, completions=(1, 5, 12, 4, 2, 12, 8, 3, 6)):
    """Prompts padded on the left, completions on the right; groups of the same prompt, not side by side."""
    rng = random.Random(1)
    begun = [[rng.randrange(1, 61) for _ in range(length)] for length in prompts]
    rows = [(begun[at % len(begun)], [rng.randrange(1, 61) for _ in range(n)]) for at, n in enumerate(completions)]
    assert len(rows) == len(prompts) * group
    before, after = max(prompts), max(completions)
    ids = [[0] * (before - len(p)) + p + c + [0] * (after - len(c)) for p, c in rows]
    mask = [[0] * (before - len(p)) + [1] * (len(p) + len(c)) + [0] * (after - len(c)) for p, c in rows]
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :before] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}, after


def scored(model, batch, columns):
    """What TRL reads of the forward pass, and the gradient of a sum over it that tells every token apart."""
    read = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    model.zero_grad()
    found = model(**batch, fused_lm_head=True)
    hook.remove()
    weights = torch.randn(batch["labels"][:, -columns:].shape, generator=torch.Generator().manual_seed(2))
    tops = [getattr(found, name)[:, -columns:] for name in OUTPUTS]
    (tops[0] * weights + tops[1] * weights.flip(1)).sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return [top.detach() for top in tops], gradient, sum(read)


@pytest.mark.parametrize("tiles", [False, True], ids=["logits kept", "tiles"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_trls(kind, attention, tiles, monkeypatch):
    model, ours = (model_of(KINDS[kind], attention) for _ in range(2))
    assert lean_forward(ours, temperature=TEMPERATURE)
    if tiles:
        monkeypatch.setattr(scoring, "MOST_LOGITS", 0)
    batch, columns = rollouts()
    expected, gradient, all_tokens = scored(model, batch, columns)
    found, mine, read = scored(ours, batch, columns)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (mine - gradient).norm() < 1e-5 * gradient.norm()
    # Three prompts of at most nine tokens, and what follows them but for the last token.
    assert (read, all_tokens) == (3 * 9 + 9 * 11, 9 * 21)


def test_an_adapters_model_scores_leanly_too():
    """Its wrapper hands on every argument that a model has."""
    batch, columns = rollouts()
    found = []
    for lean in (False, True):
        model = model_of(KINDS["llama"])
        assert not lean or lean_forward(model, temperature=TEMPERATURE)
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        read = []
        model.get_input_embeddings().register_forward_pre_hook(
            lambda _, given, read=read: read.append(given[0].numel())
        )
        found.append((adapted(**batch, fused_lm_head=True).log_probs[:, -columns:], sum(read)))
    (expected, everything), (mine, read) = found
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert read < everything


@pytest.mark.parametrize("case", ["checkpointing", "dropout", "long completions", "one prompt each"])
def test_prompts_are_not_shared_where(case, monkeypatch):
    config = copy.deepcopy(KINDS["llama"])
    config.attention_dropout = 0.5 if case == "dropout" else 0.0
    model, ours = (model_of(config) for _ in range(2))
    assert lean_forward(ours, temperature=TEMPERATURE)
    for one in (model, ours):
        one.train()
        if case == "checkpointing":
            one.gradient_checkpointing_enable()
    given = {
        "long completions": {"completions": (80,) * 9},
        "one prompt each": {"prompts": (9,) * 9, "group": 1},
    }
    batch, columns = rollouts(**given.get(case, {}))
    torch.manual_seed(5)
    expected, gradient, _ = scored(model, batch, columns)
    torch.manual_seed(5)
    found, mine, read = scored(ours, batch, columns)
    assert read == batch["input_ids"].numel()
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (mine - gradient).norm() < 1e-5 * gradient.norm()


def test_other_models_and_calls_go_their_own_way():
    softcapped = model_of(Gemma2Config(**SMALL, layer_types=["full_attention"] * 2), "eager")
    windowed = model_of(Qwen3Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1))
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    by_length = model_of(LlamaConfig(**SMALL, rope_parameters=rope))
    for model in (softcapped, windowed, by_length):
        before = model.forward
        assert not lean_forward(model, temperature=TEMPERATURE)
        assert model.forward == before
    model = model_of(KINDS["qwen3"])
    batch, _ = rollouts()
    logits = model(input_ids=batch["input_ids"]).logits
    loss = model(**batch, position_ids=torch.arange(21)[None], fused_lm_head=True).loss
    assert lean_forward(model, temperature=TEMPERATURE)
    assert torch.equal(model(input_ids=batch["input_ids"]).logits, logits)
    # Only TRL's has a loss.
    assert torch.equal(model(**batch, position_ids=torch.arange(21)[None], fused_lm_head=True).loss, loss)
    nothing = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert model(**nothing, fused_lm_head=True).log_probs.eq(0).all()
    assert model.generate(batch["input_ids"][:1], max_new_tokens=2, do_sample=False).shape == (1, 23)


def tokens_of(rows, sizes, prompts, held=0):
    """What a forward pass of these rollouts reads; `held` is the share of what it saves that stays in memory."""
    prompt, completion = (max(sizes[row][side] for row in rows) for side in (0, 1))
    different = len({prompts[row] for row in rows})
    saved = (len(rows) - different) * prompt if shares(len(rows), different, prompt, completion) else 0
    return len(rows) * (prompt + completion) - (1 - held) * saved


def test_the_cuts_are_the_best_with_shared_prompts():
    rng = random.Random(4)
    prompts = [at % 3 for at in range(10)]
    sizes = [((4, 9, 6)[prompt], rng.randrange(1, 14)) for prompt in prompts]
    order = sorted(range(10), key=lambda row: (-sum(sizes[row]), -sizes[row][1], row))
    budget = 60

    def cost(rounds):
        return sum(tokens_of(rows, sizes, prompts) for (rows,) in rounds) + len(rounds) * budget * PER_ROUND

    best = float("inf")
    for chosen in itertools.product([False, True], repeat=9):
        cuts = [0, *(at + 1 for at, cut in enumerate(chosen) if cut), 10]
        rounds = [[order[start:end]] for start, end in itertools.pairwise(cuts)]
        if all(len(rows) == 1 or tokens_of(rows, sizes, prompts, held=1 / 8) <= budget for (rows,) in rounds):
            best = min(best, cost(rounds))
    found = plan_rounds(sizes, processes=1, budget=budget, prompts=prompts)
    assert cost(found) == best
    assert cost(found) < cost(plan_rounds(sizes, processes=1, budget=budget))


def test_a_few_prompts_are_not_worth_a_second_pass():
    assert not shares(10, 10, 100, 1)
    assert shares(12, 1, 100, 1)
    completion = int(11 * 12 / (LEAST_SHARED * 12)) - 12  # of twelve rollouts of one prompt of twelve tokens
    assert shares(12, 1, 12, completion)
    assert not shares(12, 1, 12, completion + 1)


def test_prompts_have_the_same_number_however_they_are_padded():
    from laconic.training.segments import _numbered

    def numbered(rows, width):
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return _numbered({"prompt_ids": ids, "prompt_mask": mask}).tolist()

    rows = [[5, 6], [6, 5], [0, 5, 6], [5, 6, 0], [5], [0]]
    narrow, wide = numbered(rows, 3), numbered(rows, 40)
    assert narrow == wide
    assert len(set(narrow)) == len(rows)


def test_sft_learns_the_same(tmp_path):
    """Two trainers of TRL, one of which scores leanly: the same weights and metrics after two steps."""
    from trl import SFTConfig, SFTTrainer

    from laconic.inference.engines.loading import load_model
    from laconic.recipes.model_spec import ScratchModel
    from laconic.training.scratch import build, symbolic_tokenizer

    tokenizer = symbolic_tokenizer([str(number) for number in range(30)])
    build(ScratchModel(hidden_size=32, layers=2, heads=2, max_length=64), tokenizer, seed=0, folder=tmp_path / "model")
    rng = random.Random(3)
    said = [" ".join(str(rng.randrange(30)) for _ in range(rng.randrange(2, 20))) for _ in range(32)]
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(said[::2], said[1::2], strict=True)]
    found = []
    for lean in (False, True):
        model, tokenizer = load_model(tmp_path / "model", device="cpu", dtype="float32")
        arguments = SFTConfig(
            output_dir=str(tmp_path / str(lean)), per_device_train_batch_size=4, max_steps=2, logging_steps=1,
            learning_rate=0.5, optim="sgd", use_cpu=True, bf16=False, report_to=[], save_strategy="no",
        )  # fmt: skip
        dataset = sft_dataset(rows, RowEncoder(tokenizer, max_length=None))
        trainer = SFTTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=dataset)
        assert not lean or scoring.score_leanly(trainer)
        trainer.train()
        weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
        names = ("loss", "entropy", "mean_token_accuracy", "num_tokens")
        found.append((weights, [row[name] for row in trainer.state.log_history[:2] for name in names]))
    (theirs, expected), (mine, metrics) = found
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert metrics == pytest.approx(expected, rel=1e-4)
