"""The lean forward pass gives what TRL's gives, with less work."""

import copy
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from laconic.training import lean_forward as module
from laconic.training.lean_forward import lean_forward, make_lean
from laconic.training.rows import RowEncoder, sft_dataset

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
    assert lean_forward(ours, temperature=TEMPERATURE, outputs=OUTPUTS)
    if tiles:
        monkeypatch.setattr(module, "MOST_LOGITS", 0)
    batch, columns = rollouts()
    expected, gradient, all_tokens = scored(model, batch, columns)
    found, mine, read = scored(ours, batch, columns)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (mine - gradient).norm() < 1e-5 * gradient.norm()
    # Three prompts of at most nine tokens, and what follows them but for the last token.
    assert (read, all_tokens) == (3 * 9 + 9 * 11, 9 * 21)


def test_what_is_not_asked_for_is_not_computed():
    batch, columns = rollouts()
    found = []
    for outputs in (("log_probs",), OUTPUTS):
        model = model_of(KINDS["llama"])
        assert lean_forward(model, temperature=TEMPERATURE, outputs=outputs)
        found.append(model(**batch, fused_lm_head=True))
    alone, all_of_them = found
    assert (alone.entropy, alone.is_top1) == (None, None)
    assert torch.equal(alone.log_probs, all_of_them.log_probs)
    assert all_of_them.entropy[:, -columns:].gt(0).any()


def test_an_adapters_model_scores_leanly_too():
    """Its wrapper hands on every argument that a model has."""
    batch, columns = rollouts()
    found = []
    for lean in (False, True):
        model = model_of(KINDS["llama"])
        assert not lean or lean_forward(model, temperature=TEMPERATURE, outputs=OUTPUTS)
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
    assert lean_forward(ours, temperature=TEMPERATURE, outputs=OUTPUTS)
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
        assert not lean_forward(model, temperature=TEMPERATURE, outputs=OUTPUTS)
        assert model.forward == before
    model = model_of(KINDS["qwen3"])
    batch, _ = rollouts()
    logits = model(input_ids=batch["input_ids"]).logits
    loss = model(**batch, position_ids=torch.arange(21)[None], fused_lm_head=True).loss
    assert lean_forward(model, temperature=TEMPERATURE, outputs=OUTPUTS)
    assert torch.equal(model(input_ids=batch["input_ids"]).logits, logits)
    # Only TRL's has a loss.
    assert torch.equal(model(**batch, position_ids=torch.arange(21)[None], fused_lm_head=True).loss, loss)
    nothing = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert model(**nothing, fused_lm_head=True).log_probs.eq(0).all()
    assert model.generate(batch["input_ids"][:1], max_new_tokens=2, do_sample=False).shape == (1, 23)


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
        assert not lean or make_lean(trainer)
        trainer.train()
        weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
        names = ("loss", "entropy", "mean_token_accuracy", "num_tokens")
        found.append((weights, [row[name] for row in trainer.state.log_history[:2] for name in names]))
    (theirs, expected), (mine, metrics) = found
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert metrics == pytest.approx(expected, rel=1e-4)
