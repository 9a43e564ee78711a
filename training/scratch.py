"""Small models from scratch: a decoder of a standard architecture with its own tokenizer.

The result is an ordinary Hugging Face folder. Two tokenizers are built: ``symbolic``, one token per
whitespace-separated symbol of the procedural families, and ``bpe``, byte-level and trained on given text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Tokenizer

from laconic.inference.template import ASSISTANT, CHAT_TEMPLATE, END, PAD, UNKNOWN, USER
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.recipes.schema import ScratchModel
from laconic.training.model import save_model

_CONTROL = (PAD, END, UNKNOWN, USER, ASSISTANT)
_THINK = (THINK_OPEN, THINK_CLOSE)


def symbolic_tokenizer(symbols: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per symbol; text is split on whitespace and decoded with single spaces.

    Args:
        symbols: Every word that prompts, traces and answers can hold.
    """
    # Without repeats: a word counted twice would leave a gap in the ids, beyond the embedding's last row.
    words = dict.fromkeys((*_CONTROL, *_THINK, *symbols))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(tokenizer)


def bpe_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the given text; any text round-trips.

    Args:
        texts: What to train on.
        vocab_size: Tokens including the 256 bytes and the control tokens.
    """
    # Normaliser and splitting rules are Qwen2's (every digit on its own): transformers loads a qwen2 folder with that
    # class whatever was saved, so anything else would be read back as another tokenizer.
    rules = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    tokenizer.decoder = rules.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_CONTROL, *_THINK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer)


def build(spec: ScratchModel, tokenizer: PreTrainedTokenizerFast, *, seed: int, folder: Path) -> int:
    """Initialise the model and save it with its tokenizer.

    Args:
        spec: Architecture and sizes.
        tokenizer: Gives the vocabulary size and the special token ids.
        seed: Seeds the initial weights.
        folder: Where the Hugging Face folder is written.

    Returns:
        Number of parameters.
    """
    config = AutoConfig.for_model(
        spec.architecture,
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size or 4 * spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads or spec.heads,
        head_dim=spec.hidden_size // spec.heads,
        max_position_embeddings=spec.max_length,
        tie_word_embeddings=True,
        # The usual 0.02 suits widths in the thousands; at these widths it makes a slow start.
        initializer_range=spec.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokenizer.model_max_length = spec.max_length
    save_model(model, tokenizer, folder)
    return model.num_parameters()


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    # Thinking tags are ordinary tokens that are never split: a decoder that skips special tokens must keep them.
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in _THINK])
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in _CONTROL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="left"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
