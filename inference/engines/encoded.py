"""Prompts as token ids. A long one takes a while, and everybody's tokens wait where the event loop does it: so it can be
encoded ahead, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeAlias

from laconic.inference.engine import Prompt

MOST_TOKENS = 1 << 22
"""Of all the prompts that are remembered."""

Encoding: TypeAlias = tuple[str, tuple[int, ...]]
"""The text of a prompt as the model gets it, and its token ids."""


class Encoded:
    """Encodes prompts and remembers them. Belongs to one event loop.

    Args:
        encode: What a prompt comes to; must be safe to call in another thread.
        most: Tokens of all that are remembered; the oldest are forgotten.
    """

    def __init__(self, encode: Callable[[Prompt], Encoding], *, most: int = MOST_TOKENS) -> None:
        self.encode, self.most = encode, most
        self.tokens = 0
        """Of those that are remembered."""
        self._known: dict[Hashable, Encoding] = {}

    def of(self, prompt: Prompt) -> Encoding:
        """One prompt; at once if it is known."""
        key = _key(prompt)
        return self._known[key] if key in self._known else self._remember(key, self.encode(prompt))

    async def ahead(self, prompt: Prompt) -> Encoding:
        """The same in a thread, so that `of` knows it."""
        key = _key(prompt)
        if key in self._known:
            return self._known[key]
        return self._remember(key, await asyncio.to_thread(self.encode, prompt))

    def _remember(self, key: Hashable, encoding: Encoding) -> Encoding:
        self.tokens += len(encoding[1]) - (len(self._known[key][1]) if key in self._known else 0)
        self._known[key] = encoding
        while self.tokens > self.most and len(self._known) > 1:
            self.tokens -= len(self._known.pop(next(iter(self._known)))[1])
        return encoding


def _key(prompt: Prompt) -> Hashable:
    return prompt if isinstance(prompt, str) else tuple(tuple(sorted(message.items())) for message in prompt)
