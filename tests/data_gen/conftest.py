"""Small random models that decode anything but ties, and rollouts for selectors."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from laconic.rewards.records import Problem, Rollout
from laconic.training.scratch import symbolic_tokenizer

SYMBOLS = [str(number) for number in range(60)] + list("+-*/=;")


@pytest.fixture(scope="session")
def tokenizer():
    """One token per word, with the chat template of scratch models."""
    return symbolic_tokenizer(SYMBOLS)


@pytest.fixture(scope="session")
def _models(tokenizer):
    return {name: _build(name, tokenizer) for name in ("qwen3", "qwen2", "llama")}


def _build(architecture, tokenizer):
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # Fresh weights give nearly equal logits, so that rounding would decide what is most likely.
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0 if weight.ndim > 1 else 1.0)
    return model


@pytest.fixture
def random_model(_models):
    """A small random model of an architecture; each caller may change its own."""
    return lambda architecture="qwen3": copy.deepcopy(_models[architecture])


@pytest.fixture
def model_folder(random_model, tokenizer, tmp_path):
    """A Hugging Face folder with a small random Qwen3 model."""
    folder = tmp_path / "random-model"
    random_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts():
    """Prompts of very different lengths."""
    return [" ".join(str((7 * i + 3 * j) % 60) for j in range(1 + (5 * i) % 17)) for i in range(12)]


@pytest.fixture
def problem():
    """Make a problem."""

    def make(name="p", prompt=None, answer="7", **more):
        return Problem(id=name, prompt=prompt or f"question {name}", answer=answer, **{"task": "exact", **more})

    return make


@pytest.fixture
def rollout():
    """Make a rollout; its text tells its length unless one is given."""

    def make(name="p", sample=0, *, correct=True, tokens=5, finished=True, text=None):
        return Rollout(
            problem_id=name,
            sample=sample,
            task="exact",
            text=text if text is not None else f"{'right' if correct else 'wrong'} {sample} of {tokens}",
            answer="7" if correct else "8",
            correct=correct,
            finished=finished,
            tokens=tokens,
            think_tokens=tokens - 1,
            answer_tokens=1,
        )

    return make
