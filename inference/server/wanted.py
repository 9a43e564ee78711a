"""What a request asks for, read and checked before anything is done for it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from laconic.inference.engine import Prompt, Sampling
from laconic.inference.engines.encoded import characters
from laconic.inference.policies.base import Policy
from laconic.inference.policies.choose import Choice
from laconic.inference.server.choosing import Menu
from laconic.inference.server.fields import Fields, short, wrong
from laconic.inference.server.messages import prompt_of_chat, prompts_of_completion
from laconic.inference.server.refusals import Refused
from laconic.inference.server.settings import Settings

_READ = {
    "model",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "policy",
    "separate_reasoning",
}
_HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields that are taken only where they change nothing."""
STOPS, LONGEST_STOP = 16, 256


@dataclass(frozen=True)
class Wanted:
    """A request that can be answered."""

    prompts: tuple[Prompt, ...]
    n: int
    choice: Choice
    policy: Policy
    sampling: Sampling
    named: str | None
    """The field with its `max_tokens`; None: no field says how many, and `sampling` has the most."""
    seed: int
    """Of the first completion of each prompt; the next ones have the next numbers."""
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    separate: bool
    """Thinking is shown in a field of its own."""
    chat: bool

    def fitted(self, rooms: Iterable[int | None]) -> Wanted:
        """The same within what the prompts leave: three quarters of it for who names no number.

        Args:
            rooms: Tokens that fit after each prompt, as far as they are known.

        Raises:
            Refused: more are asked for.
        """
        least = min((room for room in rooms if room is not None), default=None)
        given = self.sampling.max_tokens
        if least is None:
            return self
        if self.named is None:
            # Not all of the room, so that there is some for what policies put in.
            return replace(self, sampling=replace(self.sampling, max_tokens=min(given, max(1, least * 3 // 4))))
        if given > least:
            message = f"the prompt leaves room for {least} tokens, and {self.named} is {given}"
            raise Refused(400, message, param=self.named, code="context_length_exceeded")
        return self


@dataclass(frozen=True)
class Rules:
    """What requests are held against."""

    name: str
    """The model's."""
    menu: Menu
    settings: Settings
    most_tokens: int
    """Of one completion."""
    most_characters: int | None = None
    """Of a prompt. It is looked at before anything is done with the text."""

    def read(self, body: dict[str, Any], *, chat: bool) -> Wanted:
        """A request's body as what it wants.

        Args:
            body: A JSON object.
            chat: It came to ``/v1/chat/completions``.

        Raises:
            Refused: names the field.
        """
        fields = Fields(body)
        fields.refuse_unknown(_READ | _HARMLESS | {"messages" if chat else "prompt"}, _NEUTRAL)
        self._check_model(fields)
        prompts = (prompt_of_chat(fields),) if chat else prompts_of_completion(fields, most=self.settings.max_n)
        self._check_length(prompts)
        n = fields.whole("n", 1, least=1, most=self.settings.max_n)
        if n * len(prompts) > self.settings.max_n:
            raise wrong("n", f"times the number of prompts must be {self.settings.max_n} at most")
        choice = self.menu.pick(fields.body.get("policy"))
        stream = fields.get("stream", bool, False)
        max_tokens, named = self._max_tokens(fields)
        return Wanted(
            prompts=prompts,
            n=n,
            choice=choice,
            policy=choice.build(),
            sampling=self._sampling(fields, max_tokens),
            named=named,
            seed=_seed(fields),
            stops=fields.texts("stop", most=STOPS, longest=LONGEST_STOP),
            stream=stream,
            include_usage=_include_usage(fields, stream),
            separate=chat and fields.get("separate_reasoning", bool, True),
            chat=chat,
        )

    def _check_model(self, fields: Fields) -> None:
        asked = fields.get("model", str, self.name)
        if asked != self.name:
            message = f"there is no model {short(asked)!r} here; this server has {self.name!r}"
            raise Refused(404, message, param="model", code="model_not_found")

    def _check_length(self, prompts: tuple[Prompt, ...]) -> None:
        longest = max(map(characters, prompts))
        if self.most_characters is not None and longest > self.most_characters:
            message = f"the prompt has {longest} characters, and {self.most_characters} are the most for this model"
            raise Refused(400, message, param="messages", code="context_length_exceeded")

    def _sampling(self, fields: Fields, max_tokens: int) -> Sampling:
        top_k = fields.whole("top_k", -1, least=-1, most=1 << 20)
        return Sampling(
            temperature=fields.number("temperature", self.settings.temperature, least=0.0, most=2.0),
            # 0 is OpenAI's lower end, and means the most likely token.
            top_p=max(1e-9, fields.number("top_p", 1.0, least=0.0, most=1.0)),
            top_k=top_k if top_k > 0 else None,
            max_tokens=max_tokens,
        )

    def _max_tokens(self, fields: Fields) -> tuple[int, str | None]:
        """The new name or the old one, and which; without either, the most."""
        name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
        if "max_completion_tokens" in fields and fields.body.get("max_tokens", fields.body[name]) != fields.body[name]:
            raise wrong("max_tokens", "and max_completion_tokens must be the same; give one of them")
        given = fields.whole(name, self.most_tokens, least=1, most=self.most_tokens)
        return given, name if name in fields else None


def _seed(fields: Fields) -> int:
    """The request's, made non-negative; without one, a random one, which the answer names."""
    seed = fields.whole("seed", secrets.randbits(32), least=-(1 << 63), most=(1 << 63) - 1)
    return seed & ((1 << 63) - 1)


def _include_usage(fields: Fields, stream: bool) -> bool:
    options = fields.get("stream_options", dict, {})
    if options and not stream:
        raise wrong("stream_options", "is for streams only")
    inner = Fields(options)
    inner.refuse_unknown({"include_usage", "include_obfuscation"}, {})
    return inner.get("include_usage", bool, False)
