"""Answers in OpenAI's shapes, with the account of every run as an extension under `laconic`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from laconic.inference.ledger import Ledger
from laconic.inference.server.runs import Run
from laconic.inference.server.wire import as_bytes, plain

DONE = b"data: [DONE]\n\n"
BEAT = b": waiting\n\n"


def usage_of(ledgers: Sequence[Ledger]) -> dict[str, Any]:
    """Tokens of a request, from the ledgers of its runs.

    All that was generated is counted, probes and discarded tokens too. A prompt is counted for each branch that began
    with it; what did not have to be read again is named as cached.
    """
    prompt, generated = sum(ledger.prompt for ledger in ledgers), sum(ledger.generated for ledger in ledgers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": min(prompt, sum(ledger.cached for ledger in ledgers))},
        "completion_tokens_details": {"reasoning_tokens": sum(ledger.tokens("think") for ledger in ledgers)},
    }


def account_of(run: Run) -> dict[str, Any]:
    """What the policy did: the extension of one choice."""
    answer = run.answer
    return {
        "policy": run.wanted.choice.name,
        "parameters": plain(run.wanted.choice.parameters),
        "finish": run.finish,
        "answer": None if answer is None else answer.answer,
        "confidence": None if answer is None else plain(answer.confidence),
        "seed": run.seed,
        "ledger": run.ask.ledger.to_json(),
        **_searched(run),
    }


def _searched(run: Run) -> dict[str, Any]:
    """What a policy that searches asked for, and the ids of the documents that the model was shown."""
    notes = {} if run.answer is None else run.answer.notes
    return {name: notes[name] for name in ("citations", "searches", "retrieved_tokens") if name in notes}


@dataclass(frozen=True)
class Shapes:
    """The objects of one reply."""

    model: str
    chat: bool
    include_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, runs: Sequence[Run]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        choices = [(self._message(run) if self.chat else self._text(run)) | self._end(run) for run in runs]
        usage = usage_of([run.ask.ledger for run in runs])
        return self._head("chat.completion") | {"choices": choices, "usage": usage}

    def opening(self, index: int) -> bytes:
        """The first event of a choice; completions have none."""
        return self._event([self._delta(index, {"role": "assistant", "content": ""})]) if self.chat else b""

    def piece(self, index: int, name: str, text: str) -> bytes:
        """An event with text."""
        delta = self._delta(index, {name: text}) if self.chat else _bare(index, text)
        return self._event([delta])

    def closing(self, run: Run) -> bytes:
        """The last events of a choice: what is said where an answer was withheld, why it ended, and its account."""
        withheld = self.piece(run.index, "refusal", run.refusal) if self.chat and run.refusal else b""
        empty = self._delta(run.index, {}) if self.chat else _bare(run.index, "")
        return withheld + self._event([empty | self._end(run)])

    def usage(self, runs: Sequence[Run]) -> bytes:
        """The event with the usage, if it was asked for."""
        if not self.include_usage:
            return b""
        return self._event([], usage_of([run.ask.ledger for run in runs]))

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.chat else "cmpl-"
        name = kind if self.chat else "text_completion"
        return {"id": prefix + self.id, "object": name, "created": self.created, "model": self.model}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = self._head("chat.completion.chunk") | {"choices": choices}
        return event(body | {"usage": usage} if self.include_usage else body)

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _message(self, run: Run) -> dict[str, Any]:
        thinking, refusal = run.shown("reasoning_content"), run.refusal
        content = None if refusal is not None else run.shown("content")
        message = {"role": "assistant", "content": content, "refusal": refusal}
        if run.wanted.separate:
            message["reasoning_content"] = thinking or None
        return {"index": run.index, "message": message, "logprobs": None}

    def _text(self, run: Run) -> dict[str, Any]:
        return _bare(run.index, "" if run.refusal is not None else run.shown("content"))

    def _end(self, run: Run) -> dict[str, Any]:
        return {"finish_reason": run.finish_reason, "laconic": account_of(run)}


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event. All is ASCII: some clients break lines at characters such as U+2028."""
    return b"data: " + as_bytes(body) + b"\n\n"


def _bare(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
