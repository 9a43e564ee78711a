"""Everything a server has: the engine, what may be asked of it, who is being answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jinja2

from laconic.inference.engine import Prompt
from laconic.inference.opening import Opened
from laconic.inference.policies.base import Scorer
from laconic.inference.policies.choose import Choice
from laconic.inference.server.choosing import Menu
from laconic.inference.server.exchange import Exchange
from laconic.inference.server.gate import Gate
from laconic.inference.server.meters import Meters
from laconic.inference.server.refusals import Refused
from laconic.inference.server.replies import Shapes
from laconic.inference.server.runs import Run
from laconic.inference.server.settings import Settings
from laconic.inference.server.wanted import Rules, Wanted
from laconic.inference.server.wire import Reply
from laconic.inference.trace import prompt_text

UNKNOWN_POSITIONS_TOKENS = 4096


class Service:
    """One engine for many users. Belongs to the event loop that serves.

    Args:
        opened: The engine.
        default: The policy of requests that name none.
        name: The model's, as clients ask for it; by default the engine's.
        settings: Limits and defaults.
        scorer: Makes one for a prompt, for policies that need one.

    Raises:
        LaunchError: the engine cannot run the default policy.
    """

    def __init__(
        self,
        opened: Opened,
        default: Choice,
        *,
        name: str | None = None,
        settings: Settings | None = None,
        scorer: Callable[[Prompt], Scorer] | None = None,
    ) -> None:
        self.opened, self.settings, self.scorer = opened, settings or Settings(), scorer
        self.name, self.created = name or opened.name, int(time.time())
        self.menu = Menu(default, opened.engine, scorer is not None, self.settings.allowed)
        self.menu.check_default()
        self.positions = _positions(opened)
        most = self.settings.max_tokens or (
            UNKNOWN_POSITIONS_TOKENS if self.positions is None else max(1, self.positions * 3 // 4)
        )
        self.rules = Rules(self.name, self.menu, self.settings, most, self.room)
        self.gate = Gate(at_once=self.settings.at_once, queue=self.settings.queue)
        self.meters = Meters(lambda: self.gate.inside, lambda: self.gate.waiting)
        self.exchanges: set[Exchange] = set()

    @property
    def remote(self) -> bool:
        """The engine is a server itself."""
        return self.opened.name.startswith(("http://", "https://"))

    def exchange(self, wanted: Wanted, reply: Reply) -> Exchange:
        """What answers a request."""
        return Exchange(
            lambda exchange: [self._run(wanted, index, exchange) for index in range(wanted.n * len(wanted.prompts))],
            Shapes(self.name, wanted.chat, wanted.include_usage),
            reply,
            self.gate,
            stream=wanted.stream,
            remote=self.remote,
            beat=self.settings.beat_seconds,
            count=self.meters.count,
        )

    def room(self, prompt: Prompt) -> int | None:
        """Tokens that fit after a prompt; None if that is not known.

        Raises:
            Refused: the chat template does not take it, or it leaves no room.
        """
        if self.opened.tokenizer is None:
            return None
        try:
            text = prompt_text(self.opened.tokenizer, prompt)
        except jinja2.TemplateError as error:
            message = f"the model's chat template does not take these messages: {error}"
            raise Refused(400, message, param="messages") from None
        if self.positions is None:
            return None
        length = len(self.opened.tokenizer(text, add_special_tokens=False)["input_ids"])
        if length >= self.positions:
            message = f"the prompt has {length} tokens, and the model {self.positions} positions"
            raise Refused(400, message, param="messages", code="context_length_exceeded")
        return self.positions - length

    def close(self) -> None:
        """Take no more requests; those that run are cancelled when their time is over."""
        if not self.gate.closed:
            self.gate.close()
            asyncio.get_running_loop().call_later(self.settings.close_seconds, self._cut)

    async def aclose(self) -> None:
        """Free the engine."""
        self.gate.close()
        self._cut()
        await self.opened.engine.aclose()

    def card(self) -> dict[str, Any]:
        """The model, as ``/v1/models`` shows it."""
        extension = {
            "policy": str(self.menu.default),
            "policies": self.menu.names,
            "max_tokens": self.rules.most_tokens,
        }
        facts = {"id": self.name, "object": "model", "created": self.created, "owned_by": "laconic"}
        return facts | {"laconic": extension}

    def _run(self, wanted: Wanted, index: int, exchange: Exchange) -> Run:
        most = self.settings.max_branches
        return Run(self.opened, wanted, index, exchange.hear, max_branches=most, scorer=self.scorer)

    def _cut(self) -> None:
        for exchange in list(self.exchanges):
            exchange.cut()


def _positions(opened: Opened) -> int | None:
    """The longest sequence of a model in this process; None if its config, or the engine, does not say."""
    config = getattr(getattr(opened.engine, "model", None), "config", None)
    return None if config is None else getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
