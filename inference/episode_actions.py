"""What a turn of an episode asks for: a search, the answer, or nothing that can be carried out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from laconic.inference.episode_protocols import EpisodeProtocol
from laconic.rewards.boxed import last_boxed

ActionKind: TypeAlias = Literal["search", "answer", "invalid"]


@dataclass(frozen=True, slots=True)
class Action:
    """What a turn came to."""

    kind: ActionKind
    text: str = ""
    """The query, or the answer."""


INVALID = Action("invalid")


def read_action(protocol: EpisodeProtocol, said: str) -> Action:
    """Read a turn that was stopped at the first closing search or answer tag, or ended without one.

    The content begins after the last opening tag of the same kind, so that a tag that is only mentioned before is no
    part of it. Without an opening tag, with nothing between the tags, or with a tool call that is none, the action is
    invalid.

    Args:
        protocol: The tags.
        said: The text of the turn.

    >>> from laconic.inference.episode_protocols import SEARCH_R1
    >>> read_action(SEARCH_R1, "<think>a <search> may help</think><search> capital of Peru </search>")
    Action(kind='search', text='capital of Peru')
    >>> read_action(SEARCH_R1, "<answer>Lima</answer>"), read_action(SEARCH_R1, "Lima</answer>").kind
    (Action(kind='answer', text='Lima'), 'invalid')
    """
    if said.endswith(protocol.search_close):
        content = _between(said, protocol.search_open, protocol.search_close, other=protocol.answer_open)
        query = _query(protocol, content) if content else None
        return Action("search", query) if query else INVALID
    if said.endswith(protocol.answer_close):
        content = _between(said, protocol.answer_open, protocol.answer_close, other=protocol.search_open)
        answer = (last_boxed(content) or content) if content and protocol.boxed else content
        return Action("answer", answer.strip()) if answer else INVALID
    return INVALID


def _between(said: str, opening: str, closing: str, *, other: str) -> str | None:
    """What stands between the last opening tag and the closing one at the end; None if the other tag was opened
    after it.
    """
    _, opened, content = said.removesuffix(closing).rpartition(opening)
    return content.strip() if opened and other not in content else None


def _query(protocol: EpisodeProtocol, content: str) -> str | None:
    return content if protocol.call == "text" else _called(content, protocol.tool)


def _called(content: str, tool: str) -> str | None:
    """The query of a JSON tool call; None if it is not one of this tool with a text as its query.

    Arguments may be an object, or an object as text, as some servers write them.
    """
    call = _parsed(content)
    arguments = call.get("arguments") if call is not None and call.get("name") == tool else None
    given = _parsed(arguments) if isinstance(arguments, str) else arguments
    query = given.get("query") if isinstance(given, dict) else None
    return query.strip() if isinstance(query, str) else None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None  # what a model writes between the tags need not be JSON
    return value if isinstance(value, dict) else None
