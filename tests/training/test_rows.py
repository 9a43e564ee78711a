"""Rows to token ids: boundaries, loss positions, limits, templates that pre-fill thinking."""

import pytest

from laconic.inference.trace import prompt_text
from laconic.rewards.errors import DataError
from laconic.training import scratch
from laconic.training.rows import RowEncoder, preference_dataset, sft_dataset


@pytest.fixture
def tokenizer():
    return scratch.symbolic_tokenizer(["3", "4", "7", "+", "="])


def test_loss_is_over_the_completion_and_its_end(tokenizer):
    rows = [{"prompt": "3 + 4 =", "completion": "<think> 3 + 4 = 7 </think> 7"}]
    row = sft_dataset(rows, RowEncoder(tokenizer, max_length=None))[0]
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learned) == "<think> 3 + 4 = 7 </think> 7 <|end|>"
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    prompt = row["input_ids"][: row["labels"].count(-100)]
    assert prompt == tokenizer.encode(prompt_text(tokenizer, "3 + 4 ="))


def test_rows_beyond_the_limit_are_left_out_aloud(tokenizer, capsys):
    rows = [{"prompt": "3 + 4 =", "completion": c} for c in ("7", "<think> 3 + 4 = 7 </think> 7")]
    assert len(sft_dataset(rows, RowEncoder(tokenizer, max_length=8))) == 1
    assert "1 of 2 rows exceed trainer.max_length=8" in capsys.readouterr().out
    with pytest.raises(DataError, match="max_length=3"):
        sft_dataset(rows, RowEncoder(tokenizer, max_length=3))


def test_pairs_share_the_prompt(tokenizer):
    rows = [{"prompt": "3 + 4 =", "chosen": "7", "rejected": "<think> 3 </think> 7"}]
    row = preference_dataset(rows, RowEncoder(tokenizer, max_length=None))[0]
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["prompt_ids"]) == "<|user|> 3 + 4 = <|assistant|>"


def test_a_template_that_opens_thinking_is_not_opened_twice(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>\n{% endif %}"
    encoder = RowEncoder(tokenizer, max_length=None)
    both = encoder.prompt("3 + 4 =") + encoder.completion("<think> 3 + 4 = 7 </think> 7")
    assert both.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
