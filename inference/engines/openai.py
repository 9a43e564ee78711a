"""An engine over any OpenAI-compatible server: vLLM, SGLang, llama.cpp, hosted ones.

Two routes, which differ in what policies can do over them:

- ``completions``: a raw prefix is gone on with, so policies can stop, force text and fork. It needs the model's
  template: a tokenizer, or a function that renders a conversation. With ``token_ids=True`` prompts are token ids and
  generated ids are used again as they came, so a prefix is never encoded in another way than it was generated.
- ``chat``: where the server goes on with the assistant's last message (``prefill``) as above, as long as the chat
  template and the reasoning parser leave it alone, which many do not: prefer ``completions``. Else a branch makes
  one request, and only policies that need no more are let through.

Every token that came is counted, those included that came after a stop string, a hook or a cancellation closed the
stream. Counts are exact if the server reported usage or token ids up to then; otherwise events with text are counted,
which is a lower bound, and the ledger says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from laconic.inference.effort import check_effort_dialect, effort_fields
from laconic.inference.engine import Capability, Message, Prompt, Sampling
from laconic.inference.engines.dialects import DIALECTS, Dialect, Route
from laconic.inference.engines.encoded import Encoded, Encoding
from laconic.inference.engines.openai_branch import OpenAIBranch
from laconic.inference.engines.openai_call import Call
from laconic.inference.engines.openai_events import Reader
from laconic.inference.engines.openai_http import Connection
from laconic.inference.generation import Generation
from laconic.inference.ledger import Account, Ledger
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.errors import LaunchError, RecipeError


class OpenAIEngine:
    """Implements `laconic.inference.engine.Engine`. Belongs to the event loop in which it was used first.

    Args:
        url: The base URL, usually ending with ``/v1``.
        model: The model's name at the server.
        server: What kind of server it is: a name in `DIALECTS`, or a `Dialect`.
        route: None takes completions where the template is known, else chat.
        tokenizer: The model's Hugging Face tokenizer: renders prompts and counts them and forced text.
        render: Gives the prompt's text for a conversation, instead of the tokenizer's template.
        token_ids: Prompts go as token ids and generated ids are asked for.
        without: Capabilities that this server lacks though its kind has them; nothing asks for them.
        extra: Further fields of every request body.
        effort: How a chat is asked for an effort: a dialect of `laconic.inference.effort.effort_fields`, such as
            ``enable_thinking`` for Qwen3. None: as the kind of server does, if it does.
        think_tags: What opens and closes thinking; put in where the server sends it in a field of its own.
        key_env: The environment variable with the key. The key is sent, and shown nowhere.
        concurrency: Requests at once; others wait. Ours.
        connect_timeout: Seconds.
        read_timeout: Seconds without anything from the server.
        retries: Attempts after the first, for 408, 429, 5xx and broken connections, before the first token only.
        back_off: Seconds before the first retry, doubled each time, with jitter.
        longest_wait: Seconds; a server that asks for a longer wait is not waited for.

    Raises:
        RecipeError: settings that do not go together.
        LaunchError: httpx is not installed, or the key cannot be one.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        server: str | Dialect = "compatible",
        route: Route | None = None,
        tokenizer: Any = None,
        render: Callable[[Sequence[Message]], str] | None = None,
        token_ids: bool = False,
        without: Iterable[Capability] = (),
        extra: Mapping[str, Any] | None = None,
        effort: str | None = None,
        think_tags: tuple[str, str] = (THINK_OPEN, THINK_CLOSE),
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        connect_timeout: float = 10.0,
        read_timeout: float = 600.0,
        retries: int = 5,
        back_off: float = 0.5,
        longest_wait: float = 120.0,
    ) -> None:
        self.model, self.dialect = model, _dialect(server, effort)
        self.tokenizer, self.extra, self.think_tags = tokenizer, dict(extra or {}), think_tags
        self._render = render or (self._template if tokenizer is not None else None)
        self.route: Route = route or ("chat" if self._render is None else "completions")
        self.token_ids = token_ids
        self._check_settings(concurrency, retries)
        self.slots = concurrency
        self.capabilities = self.dialect.capabilities(self.route, token_ids=token_ids) - frozenset(without)
        self._connection = Connection(
            url,
            key_env=key_env,
            concurrency=concurrency,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries=retries,
            back_off=back_off,
            longest_wait=longest_wait,
        )
        self._encoded = Encoded(self._encode)
        self._calls: set[Call] = set()

    @property
    def retried(self) -> int:
        """Requests that were made again so far."""
        return self._connection.retried

    def open(self, prompt: Prompt, *, ledger: Ledger, sampling: Sampling | None = None, seed: int = 0) -> OpenAIBranch:
        """A branch at the end of a prompt. Without a tokenizer, its prompt is counted once the server reports it."""
        messages, (text, ids) = _messages(prompt), self._encoded.of(prompt)
        account = Account(ledger, prompt=len(ids))
        return OpenAIBranch(
            self, (messages, text, list(ids)), account, sampling=sampling or Sampling(), seed=seed, counted=bool(ids)
        )

    async def encode_ahead(self, prompt: Prompt) -> int:
        """Encode a prompt in a thread, so that `open` finds it; returns its tokens, 0 without a tokenizer."""
        return len((await self._encoded.ahead(prompt))[1])

    async def aclose(self) -> None:
        """Close every stream and connection."""
        for call in tuple(self._calls):
            await call.abort()
        await self._connection.aclose()

    def has(self, capability: Capability) -> bool:
        """Whether it is offered."""
        return capability in self.capabilities

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as it is."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _encode(self, prompt: Prompt) -> Encoding:
        text = self._render(_messages(prompt)) if self._render is not None else ""
        return text, tuple(self.encode(text)) if self.tokenizer is not None else ()

    def settings(
        self,
        *,
        sampling: Sampling,
        seed: tuple[int, tuple[int, ...], int],
        min_tokens: int,
        top: int,
        bias: Mapping[int, float] | None,
    ) -> dict[str, Any]:
        """The body's fields that say how tokens are drawn.

        Args:
            sampling: Its `max_tokens` is not looked at.
            seed: Of the branch, the way of its forks, and the number of the generation: each draws its own numbers.
            min_tokens: Generated tokens at least.
            top: How many of the most likely tokens to report.
            bias: Added to the logits of these token ids.

        Raises:
            LaunchError: the server cannot do something of it.
        """
        fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.top_k is not None:
            self._need(self.dialect.top_k, "top_k")
            fields["top_k"] = sampling.top_k
        if min_tokens:
            self._need(self.dialect.min_tokens, "min_tokens")
            fields["min_tokens"] = min_tokens
        if bias:
            self._need(self.has(Capability.LOGIT_BIAS), "a bias on logits")
            fields["logit_bias"] = {str(token): value for token, value in bias.items()}
        if sampling.effort is not None:
            self._need(self.has(Capability.EFFORT), "an effort (effort=, over chats)")
            fields |= effort_fields(self.dialect.effort or "", sampling.effort)
        if self.dialect.sends_seed:
            fields["seed"] = zlib.crc32(repr(seed).encode()) >> 1
        if top:
            self._need(self.has(Capability.TOP_LOGPROBS), "log-probabilities of the most likely tokens")
        if self.has(Capability.LOGPROBS):
            # Asking for none of the most likely ones means no log-probabilities at all to some servers.
            most = max(1, top)
            fields |= {"logprobs": most} if self.route == "completions" else {"logprobs": True, "top_logprobs": most}
        return fields

    def call(
        self,
        prompt: tuple[Sequence[Message], str, Sequence[int]],
        text: str,
        ids: Sequence[int],
        fields: Mapping[str, Any],
        generation: Generation,
    ) -> Call:
        """Begin a request.

        Args:
            prompt: Conversation, rendered text, token ids.
            text: What follows the prompt so far.
            ids: Its token ids, if they are used.
            fields: How tokens are drawn; may hold `top`, which is ours.
            generation: Its limit and stop strings.
        """
        messages, rendered, prompt_ids = prompt
        body = {"model": self.model} | dict(fields)
        top = body.pop("top", 0)
        if self.route == "completions":
            raw = [*prompt_ids, *ids] if self.token_ids else rendered + text
            body |= {"prompt": raw, "max_tokens": generation.max_tokens} | self.dialect.raw
        else:
            held = [{"role": "assistant", "content": text}] if text else []
            body |= {"messages": [*messages, *held], self.dialect.chat_limit: generation.max_tokens}
            body |= (self.dialect.prefill or {}) if text else {}
        if generation.stop and self.stops_there:
            body |= {"stop": list(generation.stop)} | (self.dialect.keep_stop or {})
        if self.token_ids:
            body |= self.dialect.token_ids or {}
        call = Call(
            self._connection,
            "completions" if self.route == "completions" else "chat/completions",
            _merged(body, self.extra),
            lambda: self._reader(text, top),
        )
        self._calls.add(call)
        call.when_done(self._calls.discard)
        return call

    @property
    def stops_there(self) -> bool:
        """Whether the server looks for stop strings; else this side does, and closes the stream."""
        return self.route == "completions" and self.dialect.keep_stop is not None and self.has(Capability.PREFIX)

    def _reader(self, prefix: str, top: int) -> Reader:
        return Reader(
            tags=self.think_tags,
            prefix=prefix,
            top=top,
            logprobs=self.has(Capability.LOGPROBS),
            decode=self.tokenizer.decode if self.token_ids else None,
        )

    def _template(self, messages: Sequence[Message]) -> str:
        return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    def _need(self, has: bool, what: str) -> None:
        if not has:
            raise LaunchError(
                f"the server was not said to take {what}",
                cure="say what kind of server it is (server=), or do without",
            )

    def _check_settings(self, concurrency: int, retries: int) -> None:
        if self.route == "completions" and self._render is None:
            cure = "pass the model's tokenizer=, or render="
            raise RecipeError("route='completions' without a template", cure=cure)
        if self.token_ids and (self.route != "completions" or self.tokenizer is None or self.dialect.token_ids is None):
            cure = "they need route='completions', tokenizer= and a server that reports them: vllm or sglang"
            raise RecipeError("token_ids=True", cure=cure)
        if concurrency < 1 or retries < 0:
            raise RecipeError(
                f"concurrency={concurrency}, retries={retries}", cure="at least one request, at least no retry"
            )


def _messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _dialect(server: str | Dialect, effort: str | None) -> Dialect:
    if isinstance(server, str) and server not in DIALECTS:
        raise RecipeError(f"unknown server {server!r}", cure=f"one of {', '.join(DIALECTS)}, or a Dialect of your own")
    dialect = DIALECTS[server] if isinstance(server, str) else server
    if effort is None:
        return dialect
    check_effort_dialect(effort)
    return replace(dialect, effort=effort)


def _merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Both, with the second first where they say the same; fields within a field are merged too."""
    inner = {
        key: {**body[key], **value}
        for key, value in extra.items()
        if isinstance(value, Mapping) and isinstance(body.get(key), Mapping)
    }
    return {**body, **extra, **inner}
