"""Reading a trace: where the thinking ends, what each part costs in tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from laconic.inference.engine import Prompt

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Trace:
    """A decoded completion and its parts."""

    text: str
    answer_text: str | None
    """What follows ``</think>``; the whole text if the completion never thought; None if thinking never ended."""
    think_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        """All generated tokens, end-of-sequence included."""
        return self.think_tokens + self.answer_tokens


class TraceReader:
    """Turns generated ids into a `Trace`.

    Args:
        tokenizer: A Hugging Face tokenizer. Not typed as such, so that importing this module stays light.
        eos_ids: Every token that can end a completion; None takes the tokenizer's one.
        opens_thinking: The chat template already ends the prompt with ``<think>`` (as DeepSeek-R1's does), so a
            completion is thinking from its first token on.
    """

    def __init__(
        self, tokenizer: Any, *, eos_ids: Collection[int] | None = None, opens_thinking: bool | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_ids = frozenset([tokenizer.eos_token_id] if eos_ids is None else eos_ids)
        close = tokenizer.encode(THINK_CLOSE, add_special_tokens=False)
        self._close_id = close[0] if len(close) == 1 else None
        self.opens_thinking = template_opens_thinking(tokenizer) if opens_thinking is None else opens_thinking

    def read(self, ids: Sequence[int]) -> Trace:
        """Split one completion.

        Args:
            ids: Generated token ids, shape (L,), end-of-sequence included if it was generated.
        """
        ids = list(ids)
        cut = self._think_end(ids)
        text = self._decode(ids)
        if cut is not None:
            return Trace(text, self._decode(ids[cut:]).strip(), cut, len(ids) - cut)
        if self.opens_thinking or text.lstrip().startswith(THINK_OPEN):
            return Trace(text, None, len(ids), 0)
        return Trace(text, text.strip(), 0, len(ids))

    def _decode(self, ids: list[int]) -> str:
        special = self.eos_ids | {self.tokenizer.pad_token_id}
        return self.tokenizer.decode([i for i in ids if i not in special], skip_special_tokens=False)

    def _think_end(self, ids: list[int]) -> int | None:
        """Number of tokens up to and including ``</think>``, or None."""
        if self._close_id is not None:
            return ids.index(self._close_id) + 1 if self._close_id in ids else None
        if THINK_CLOSE not in self._decode(ids):
            return None
        # Several tokens spell </think>: the part ends with the first token that completes it (binary search,
        # since a longer prefix can only contain more).
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if THINK_CLOSE in self._decode(ids[:middle]) else (middle + 1, high)
        return low


def prompt_text(tokenizer: Any, prompt: Prompt) -> str:
    """The exact string the model is prompted with for one user message, or for a conversation."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(item) for item in prompt]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def template_opens_thinking(tokenizer: Any) -> bool:
    """Whether the chat template itself writes ``<think>`` at the end of the prompt."""
    return prompt_text(tokenizer, "x").rstrip().endswith(THINK_OPEN)
