"""A model that thinks at random, for commands that ask one."""

import pytest


@pytest.fixture(scope="session")
def thinker(tmp_path_factory):
    """An untrained model whose prompts end with the opening tag, so that whatever it says is thinking."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from laconic.training.scratch import symbolic_tokenizer

    folder = tmp_path_factory.mktemp("thinker")
    tokenizer = symbolic_tokenizer([*"0123456789+=;"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "<|assistant|><think>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, max_position_embeddings=65536, **sizes
    )
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
