"""What a request asks for, read and checked before anything is done for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from laconic.inference.engine import Prompt, Sampling
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
    seed: int
    """Of the first completion of each prompt; the next ones have the next numbers."""
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    separate: bool
    """Thinking is shown in a field of its own."""
    chat: bool


@dataclass(frozen=True)
class Rules:
    """What requests are held against."""

    name: str
    """The model's."""
    menu: Menu
    settings: Settings
    most_tokens: int
    """Of one completion."""
    room: Callable[[Prompt], int | None]
    """Tokens that fit after a prompt, as far as it is known; refuses a prompt that the model cannot be asked."""

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
        n = fields.whole("n", 1, least=1, most=self.settings.max_n)
        if n * len(prompts) > self.settings.max_n:
            raise wrong("n", f"times the number of prompts must be {self.settings.max_n} at most")
        choice = self.menu.pick(fields.body.get("policy"))
        stream = fields.get("stream", bool, False)
        return Wanted(
            prompts=prompts,
            n=n,
            choice=choice,
            policy=choice.build(),
            sampling=self._sampling(fields, prompts),
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

    def _sampling(self, fields: Fields, prompts: tuple[Prompt, ...]) -> Sampling:
        top_k = fields.whole("top_k", -1, least=-1, most=1 << 20)
        return Sampling(
            temperature=fields.number("temperature", self.settings.temperature, least=0.0, most=2.0),
            # 0 is OpenAI's lower end, and means the most likely token.
            top_p=max(1e-9, fields.number("top_p", 1.0, least=0.0, most=1.0)),
            top_k=top_k if top_k > 0 else None,
            max_tokens=self._max_tokens(fields, prompts),
        )

    def _max_tokens(self, fields: Fields, prompts: tuple[Prompt, ...]) -> int:
        """The new name or the old one; without either, the most, or three quarters of what prompts leave."""
        rooms = [room for room in map(self.room, prompts) if room is not None]
        name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
        if "max_completion_tokens" in fields and fields.body.get("max_tokens", fields.body[name]) != fields.body[name]:
            raise wrong("max_tokens", "and max_completion_tokens must be the same; give one of them")
        # Not all of the room, so that there is some for what policies put in.
        usual = min([self.most_tokens, *(max(1, room * 3 // 4) for room in rooms)])
        given = fields.whole(name, usual, least=1, most=self.most_tokens)
        if rooms and given > min(rooms):
            message = f"the prompt leaves room for {min(rooms)} tokens, and {name} is {given}"
            raise Refused(400, message, param=name, code="context_length_exceeded")
        return given


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
