"""Rows to token ids: one way of joining prompt and completion for SFT, DPO and generation.

The prompt is the chat template with its generation prompt; the completion is tokenised on its own and closed with
the end-of-sequence token. So a model is trained on exactly the token boundary it will be sampled at, and templates
that cut the thinking out of earlier assistant messages (DeepSeek-R1's) cannot cut it out of the training data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from laconic.inference.trace import THINK_OPEN, prompt_text, template_opens_thinking
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem


class RowEncoder:
    """Encodes prompts and completions for one tokenizer.

    Args:
        tokenizer: Its chat template is applied to prompts.
        max_length: Longest prompt plus completion in tokens; None for no limit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._opens_thinking = template_opens_thinking(tokenizer)

    def prompt(self, text: str) -> list[int]:
        """Ids of the prompt for one user message."""
        return self.tokenizer.encode(prompt_text(self.tokenizer, text), add_special_tokens=False)

    def completion(self, text: str) -> list[int]:
        """Ids of a completion, end-of-sequence included."""
        if self._opens_thinking:
            text = text.lstrip().removeprefix(THINK_OPEN)
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def fits(self, *parts: list[int]) -> bool:
        """Whether the parts together stay within `max_length`."""
        return self.max_length is None or sum(map(len, parts)) <= self.max_length


def sft_dataset(rows: Sequence[dict[str, Any]], encoder: RowEncoder) -> Dataset:
    """Columns ``input_ids`` and ``labels``; prompt positions are -100, so the loss is over completions.

    Raises:
        DataError: no row fits `max_length`.
    """
    encoded = []
    for row in rows:
        prompt, completion = encoder.prompt(row["prompt"]), encoder.completion(row["completion"])
        if encoder.fits(prompt, completion):
            encoded.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    return _dataset(encoded, encoder, given=len(rows))


def preference_dataset(rows: Sequence[dict[str, Any]], encoder: RowEncoder) -> Dataset:
    """Columns ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.

    Raises:
        DataError: no pair fits `max_length`.
    """
    encoded = []
    for row in rows:
        prompt = encoder.prompt(row["prompt"])
        chosen, rejected = encoder.completion(row["chosen"]), encoder.completion(row["rejected"])
        if encoder.fits(prompt, chosen) and encoder.fits(prompt, rejected):
            encoded.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return _dataset(encoded, encoder, given=len(rows))


def prompt_dataset(problems: Iterable[Problem]) -> Dataset:
    """Columns ``prompt`` (messages) and ``problem_id``, as GRPO wants them."""
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": p.prompt}], "problem_id": p.id} for p in problems]
    )


def _dataset(encoded: list[dict[str, Any]], encoder: RowEncoder, *, given: int) -> Dataset:
    if not encoded:
        raise DataError(f"no row fits trainer.max_length={encoder.max_length} tokens", cure="raise trainer.max_length")
    if len(encoded) < given and PartialState().is_main_process:
        print(f"{given - len(encoded)} of {given} rows exceed trainer.max_length={encoder.max_length} and are left out")
    return Dataset.from_list(encoded)
