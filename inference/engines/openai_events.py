"""The events of a streamed completion, read into tokens: counts, log-probabilities, and thinking between its tags."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from laconic.inference.engine import Token
from laconic.rewards.errors import LaunchError


async def data_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The `data:` fields of server-sent events.

    Lines are split at line feeds alone: servers send characters such as U+2028 as they are, and a splitter for texts
    would break an event there.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].decode(errors="replace").strip()
    if rest.startswith(b"data:"):
        yield rest[5:].decode(errors="replace").strip()


class Reader:
    """One stream's events in, tokens out.

    How many tokens an event holds is what it says itself (token ids, log-probabilities), else by how much the reported
    usage rose, else one if there is text. Tokens whose text the server kept back (tags of a reasoning parser,
    end-of-sequence, hidden thinking) come with the next text, or at the end, as tokens without text.

    Args:
        tags: What opens and closes thinking; put in where the server sends thinking in a field of its own.
        prefix: The assistant's text that the request goes on from.
        top: Entries to keep of the most likely tokens; servers may send one more, the sampled one.
        logprobs: They were asked for.
        decode: Gives the text of token ids, if these were asked for.
    """

    def __init__(
        self,
        *,
        tags: tuple[str, str],
        prefix: str = "",
        top: int = 0,
        logprobs: bool = False,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        self.open_tag, self.close_tag = tags
        self.top, self.logprobs, self.decode = top, logprobs, decode
        self.finish: str | None = None
        self.prompt: int | None = None
        self.cached = 0
        self.hidden = 0
        """Tokens of thinking that is not shown, as far as reported."""
        self.given = 0
        """Tokens handed out."""
        self.reported: int | None = None
        """Generated tokens by the server's last word."""
        self._fresh = self._all_ids = True
        self._opened, self._closed = self.open_tag in prefix, self.close_tag in prefix
        self._in_field = False

    @property
    def count(self) -> int:
        """Generated tokens: as reported if anything was, else as handed out, which is a lower bound."""
        return self.given if self.reported is None else max(self.reported, self.given * (not self._fresh))

    @property
    def exact(self) -> bool:
        """Whether `count` was reported, by usage or by token ids, up to the last event that came."""
        return self._fresh or self._all_ids

    def read(self, event: Mapping[str, Any]) -> list[Token]:
        """The tokens of one event.

        Raises:
            LaunchError: it lacks what was asked for.
        """
        usage = event.get("usage")
        self._note(usage)
        choice = (event.get("choices") or [{}])[0]
        self.finish = choice.get("finish_reason") or self.finish
        lead, text = self._text(choice)
        entries, ids = _entries(choice, self.top), choice.get("token_ids") or []
        self._check(text, entries, ids)
        if self.logprobs or self.decode is not None:
            tokens = self._detailed(lead + text, entries, ids)
        else:
            tokens = self._plain(lead, text, ended=self.finish is not None)
        self.given += len(tokens)
        if tokens or usage:
            self._fresh = bool(usage)
            self._all_ids &= bool(ids) or not tokens
        return tokens

    def _note(self, usage: Mapping[str, Any] | None) -> None:
        if usage:
            self.reported = int(usage.get("completion_tokens") or 0)
            self.prompt = usage.get("prompt_tokens", self.prompt)
            self.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or self.cached
            details = usage.get("completion_tokens_details") or {}
            if not self._in_field:
                self.hidden = details.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0

    def _text(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """A tag that the server kept back, and the text after it."""
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        said = delta.get("content") or choice.get("text") or ""
        lead = ""
        if thought and not self._closed:
            lead = "" if self._opened else self.open_tag
            self._in_field = self._opened = True
            self.hidden = 0
        if said and self._in_field and not self._closed:
            self._closed = True
            if thought:
                return lead, thought + self.close_tag + said
            lead = self.close_tag
        return lead, thought + said

    def _check(self, text: str, entries: Sequence[Any], ids: Sequence[int]) -> None:
        if text and self.logprobs and not entries:
            raise LaunchError(
                "the server sent no log-probabilities, though they were asked for",
                cure="choose a policy that needs none, and pass without=[Capability.LOGPROBS]",
            )
        if text and self.decode is not None and not ids:
            raise LaunchError("the server reported no token ids, though asked for", cure="pass token_ids=False")

    def _detailed(self, text: str, entries: Sequence[tuple[str, float, Any]], ids: Sequence[int]) -> list[Token]:
        names = [entry[0] for entry in entries] or [self.decode([i]) for i in ids]  # type: ignore[misc]
        texts = spread(text, names)
        logprobs = [entry[1] for entry in entries] or [None] * len(texts)
        tops = [entry[2] for entry in entries] or [None] * len(texts)
        numbers = list(ids) or [None] * len(texts)
        rows = zip(texts, numbers, logprobs, tops, strict=True)
        return [Token(said, number, logprob, top) for said, number, logprob, top in rows]

    def _plain(self, lead: str, text: str, *, ended: bool) -> list[Token]:
        rise = max(0, (self.reported or 0) - self.given)
        if not text:
            # What has no text waits for the next text, of which it may be the tag.
            return [Token("")] * rise if ended else []
        hidden = max(0, rise - 1)
        if lead and hidden:
            return [Token("")] * (hidden - 1) + [Token(lead), Token(text)]
        if lead == self.close_tag and self.reported is None:
            return [Token(lead), Token(text)]  # the model wrote it; whether it wrote the opening one is not known
        return [Token("")] * hidden + [Token(lead + text)]


def spread(text: str, names: Sequence[str]) -> list[str]:
    """Divide a text among its tokens, in order; what does not match their names falls to the last one.

    >>> spread("ab", ["a", "b", "<eos>"]), spread("é", ["?", "?"])
    (['a', 'b', ''], ['', 'é'])
    """
    parts = []
    for name in names:
        fits = bool(name) and text.startswith(name)
        parts.append(name if fits else "")
        text = text[len(name) :] if fits else text
    if text and parts:
        parts[-1] += text
    return parts


def _entries(choice: Mapping[str, Any], top: int) -> list[tuple[str, float, tuple[float, ...] | None]]:
    """Name, log-probability and the most likely ones of every token; both forms of the protocol."""
    logprobs = choice.get("logprobs") or {}
    if "content" in logprobs:
        rows = [
            (entry["token"], entry["logprob"], [other["logprob"] for other in entry.get("top_logprobs") or ()])
            for entry in logprobs["content"] or ()
        ]
    else:
        tokens = logprobs.get("tokens") or ()
        tops = logprobs.get("top_logprobs") or [None] * len(tokens)
        others = [list((other or {}).values()) for other in tops]
        rows = list(zip(tokens, logprobs.get("token_logprobs") or (), others, strict=True))
    # The sampled token comes as one entry more if it is not among the most likely.
    return [(name, own, tuple(sorted(other, reverse=True)[:top]) if top else None) for name, own, other in rows]
