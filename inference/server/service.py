"""Everything a server has: the engine, what may be asked of it, who is being answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import jinja2

from laconic.inference.engine import Prompt
from laconic.inference.opening import Opened, is_address
from laconic.inference.policies.base import Scorer
from laconic.inference.policies.choose import Choice
from laconic.inference.policies.needs import engines_of
from laconic.inference.policies.retrieving import within
from laconic.inference.retrieval.protocol import Retriever
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
CHARACTERS_PER_POSITION = 32
"""A longer prompt is refused unread. Text has about four characters to a token; so many have only long blanks."""


class Service:
    """One model for many users. Belongs to the event loop that serves.

    Args:
        opened: The engine.
        default: The policy of requests that name none.
        name: The model's, as clients ask for it; by default the engine's.
        settings: Limits and defaults.
        scorer: Makes one for a prompt, for policies that need one.
        retriever: For policies that search; closed with the engine.
        engines: Further ones by name, for cascades, routers and drafts; closed with the engine. Clients do not see
            them as models.

    Raises:
        LaunchError: the engine cannot run the default policy, or it asks an engine that there is not.
    """

    def __init__(
        self,
        opened: Opened,
        default: Choice,
        *,
        name: str | None = None,
        settings: Settings | None = None,
        scorer: Callable[[Prompt], Scorer] | None = None,
        retriever: Retriever | None = None,
        engines: Mapping[str, Opened] | None = None,
    ) -> None:
        self.retriever, self.engines = retriever, dict(engines or {})
        self.opened, self.settings, self.scorer = opened, settings or Settings(), scorer
        self.name, self.created = name or opened.name, int(time.time())
        given = {"scorer": scorer is not None, "retriever": retriever is not None, "engines": tuple(self.engines)}
        self.menu = Menu(default, opened.engine, allowed=self.settings.allowed, **given)
        self.menu.check_default()
        self.positions = opened.positions
        most = self.settings.max_tokens or (
            UNKNOWN_POSITIONS_TOKENS if self.positions is None else max(1, self.positions * 3 // 4)
        )
        self.max_generated = self.settings.max_request_tokens or self.settings.max_branches * most
        characters = None if self.positions is None else self.positions * CHARACTERS_PER_POSITION
        self.rules = Rules(self.name, self.menu, self.settings, min(most, self.max_generated), characters)
        self.gate = Gate(at_once=self.settings.at_once, queue=self.settings.queue)
        self.meters = Meters(lambda: self.gate.inside, lambda: self.gate.waiting)
        self.exchanges: set[Exchange] = set()

    def exchange(self, wanted: Wanted, reply: Reply) -> Exchange:
        """What answers a request."""
        return Exchange(
            lambda exchange: self._runs(wanted, exchange),
            Shapes(self.name, wanted.chat, wanted.include_usage),
            reply,
            self.gate,
            stream=wanted.stream,
            remote=any(is_address(opened.name) for opened in self._asked(wanted.choice)),
            beat=self.settings.beat_seconds,
            count=self.meters.count,
        )

    async def room(self, prompt: Prompt, choice: Choice | None = None) -> int | None:
        """Tokens that fit after a prompt; None if that is not known. The engine has it encoded from now on.

        Args:
            prompt: The question.
            choice: The policy that answers it: the engines that it asks need room, too.

        Raises:
            Refused: the chat template does not take it, or it leaves no room.
        """
        rooms = [await _room(opened, prompt) for opened in self._asked(choice)]
        return min((room for room in rooms if room is not None), default=None)

    def close(self) -> None:
        """Take no more requests; those that run are cancelled when their time is over."""
        if not self.gate.closed:
            self.gate.close()
            asyncio.get_running_loop().call_later(self.settings.close_seconds, self._cut)

    async def aclose(self) -> None:
        """Free the engines."""
        self.gate.close()
        self._cut()
        async with AsyncExitStack() as stack:
            # All of them, whatever happens to one; an engine may have several names.
            for engine in {opened.engine for opened in (self.opened, *self.engines.values())}:
                stack.push_async_callback(engine.aclose)
            if self.retriever is not None:
                stack.push_async_callback(self.retriever.aclose)

    def card(self) -> dict[str, Any]:
        """The model, as ``/v1/models`` shows it."""
        extension = {
            "policy": str(self.menu.default),
            "policies": self.menu.names,
            "max_tokens": self.rules.most_tokens,
        }
        facts = {"id": self.name, "object": "model", "created": self.created, "owned_by": "laconic"}
        return facts | {"laconic": extension}

    def _asked(self, choice: Choice | None) -> list[Opened]:
        """The model's engine, and the further ones that a policy asks."""
        names = () if choice is None else engines_of(choice)
        return [self.opened, *(self.engines[name] for name in names)]

    async def _runs(self, wanted: Wanted, exchange: Exchange) -> list[Run]:
        wanted = wanted.fitted([await self.room(prompt, wanted.choice) for prompt in wanted.prompts])
        return [self._run(wanted, index, exchange) for index in range(wanted.n * len(wanted.prompts))]

    def _run(self, wanted: Wanted, index: int, exchange: Exchange) -> Run:
        given = {"max_branches": self.settings.max_branches, "max_generated": self.max_generated}
        given |= {"scorer": self.scorer, "retriever": self.retriever}
        given["engines"] = {name: opened.engine for name, opened in self.engines.items()}
        wanted = replace(wanted, policy=within(wanted.policy, self.positions))
        return Run(self.opened, wanted, index, exchange.hear, **given)

    def _cut(self) -> None:
        for exchange in list(self.exchanges):
            exchange.cut()


async def _room(opened: Opened, prompt: Prompt) -> int | None:
    if opened.tokenizer is None:
        return None
    try:
        length = await _encode_ahead(opened, prompt)
    except jinja2.TemplateError as error:
        message = f"the model's chat template does not take these messages: {error}"
        raise Refused(400, message, param="messages") from None
    if opened.positions is None or length is None:
        return None
    if length >= opened.positions:
        message = f"the prompt has {length} tokens, and the model {opened.positions} positions"
        raise Refused(400, message, param="messages", code="context_length_exceeded")
    return opened.positions - length


async def _encode_ahead(opened: Opened, prompt: Prompt) -> int | None:
    """A prompt's tokens. Not on the event loop: while a long text is encoded, others are answered."""
    encode = getattr(opened.engine, "encode_ahead", None)
    if encode is not None:
        return await encode(prompt)
    await asyncio.to_thread(prompt_text, opened.tokenizer, prompt)
    return None
