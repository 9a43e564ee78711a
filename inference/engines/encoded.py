"""Prompts as token ids. A long one takes a while, and on the event loop everybody's tokens wait for it: so it can be
encoded ahead, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeAlias

from laconic.inference.engine import Prompt

MOST_CHARACTERS = 1 << 23
"""Of all the prompts that are remembered."""

Encoding: TypeAlias = tuple[str, tuple[int, ...]]
"""The text of a prompt as the model gets it, and its token ids."""


class Encoded:
    """Encodes prompts and remembers them. Belongs to one event loop.

    Args:
        encode: What a prompt comes to; must be safe to call in another thread.
        most: Characters of all prompts that are remembered; the oldest are forgotten.
    """

    def __init__(self, encode: Callable[[Prompt], Encoding], *, most: int = MOST_CHARACTERS) -> None:
        self.encode, self.most = encode, most
        self.characters = 0
        """Of those that are remembered."""
        self._known: dict[Hashable, tuple[Encoding, int]] = {}

    def of(self, prompt: Prompt) -> Encoding:
        """One prompt; at once if it is known."""
        key = _key(prompt)
        return self._known[key][0] if key in self._known else self._remember(prompt, self.encode(prompt))

    async def ahead(self, prompt: Prompt) -> Encoding:
        """The same in a thread, so that `of` knows it."""
        key = _key(prompt)
        if key in self._known:
            return self._known[key][0]
        return self._remember(prompt, await asyncio.to_thread(self.encode, prompt))

    def _remember(self, prompt: Prompt, encoding: Encoding) -> Encoding:
        key, size = _key(prompt), 1 + characters(prompt)
        # Two may have waited for the same one.
        self.characters -= self._known.pop(key, (encoding, 0))[1]
        self.characters += size
        self._known[key] = encoding, size
        while self.characters > self.most and len(self._known) > 1:
            self.characters -= self._known.pop(next(iter(self._known)))[1]
        return encoding


def characters(prompt: Prompt) -> int:
    """Of all that a prompt says.

    >>> characters("3 + 4 ="), characters([{"role": "user", "content": "3 + 4 ="}])
    (7, 7)
    """
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _key(prompt: Prompt) -> Hashable:
    return prompt if isinstance(prompt, str) else tuple(tuple(sorted(message.items())) for message in prompt)
