"""The question of a request, from OpenAI's forms of it."""

from __future__ import annotations

from typing import Any

from laconic.inference.engine import Message, Prompt
from laconic.inference.server.fields import Fields, wrong

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_KNOWN = {"role", "content", "name", "refusal", "annotations"}


def prompt_of_chat(fields: Fields) -> Prompt:
    """The conversation; a single message of the user as its text alone.

    Raises:
        Refused: it is none, or holds what is not text.
    """
    found = fields.get("messages", list, [])
    if not found:
        raise wrong("messages", "must be a list with at least one message")
    messages = [_message(message, f"messages[{place}]") for place, message in enumerate(found)]
    if messages[-1]["role"] == "assistant":
        raise wrong(f"messages[{len(messages) - 1}].role", "must not be assistant: an answer is not gone on with here")
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return messages


def prompts_of_completion(fields: Fields, *, most: int) -> tuple[Prompt, ...]:
    """The prompts of a completion; each becomes a message of the user.

    Raises:
        Refused: it is no text, or too many.
    """
    value = fields.body.get("prompt")
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(item, str) for item in prompts):
        raise wrong("prompt", "must be a text or a list of texts; token ids are not taken")
    if len(prompts) > most:
        raise wrong("prompt", f"takes {most} texts at most")
    return tuple(prompts)


def _message(message: Any, place: str) -> Message:
    if not isinstance(message, dict):
        raise wrong(place, "must be an object")
    for name, value in message.items():
        if name not in _KNOWN and value not in (None, [], ""):
            raise wrong(f"{place}.{name[:40]}", "is not supported by this server")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{place}.role", f"must be {', '.join(_ROLES)}")
    return {"role": _ROLES[role], "content": _content(message.get("content"), f"{place}.content")}


def _content(content: Any, place: str) -> str:
    """A text, or a list of text parts, which are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(place, "must be a text")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise wrong(place, "must hold text parts only")
    return "".join(part["text"] for part in content)
