"""Reasoning effort: one scale for every server's dialect."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from laconic.rewards.errors import RecipeError

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
EffortDialect: TypeAlias = Literal["openai", "openrouter", "gpt-oss", "enable_thinking", "thinking"]

EFFORTS: tuple[Effort, ...] = get_args(Effort)
EFFORT_DIALECTS: tuple[EffortDialect, ...] = get_args(EffortDialect)
_GPT_OSS: tuple[Effort, ...] = ("low", "medium", "high")


def effort_fields(dialect: str, effort: str) -> dict[str, Any]:
    """The fields of a chat request that ask for an effort in a server's dialect.

    Args:
        dialect: ``openai``: top-level ``reasoning_effort``. ``openrouter``: ``reasoning: {effort}``. ``gpt-oss``: the
            chat template's ``reasoning_effort``, which has low, medium and high only. ``enable_thinking`` (Qwen3) and
            ``thinking`` (DeepSeek): the chat template's switch; it is off for "none" and on for every other effort,
            which it cannot tell apart. Which efforts a hosted model takes is the model's: it answers 400 to others.
        effort: From none to xhigh.

    Raises:
        RecipeError: an unknown dialect or effort, or one that the dialect cannot say.

    >>> effort_fields("enable_thinking", "none"), effort_fields("openrouter", "low")
    ({'chat_template_kwargs': {'enable_thinking': False}}, {'reasoning': {'effort': 'low'}})
    """
    check_effort_dialect(dialect)
    check_effort(effort)
    if dialect == "openai":
        return {"reasoning_effort": effort}
    if dialect == "openrouter":
        return {"reasoning": {"effort": effort}}
    if dialect == "gpt-oss":
        if effort not in _GPT_OSS:
            raise RecipeError(f"gpt-oss cannot be asked for effort {effort!r}", cure=f"use {', '.join(_GPT_OSS)}")
        return {"chat_template_kwargs": {"reasoning_effort": effort}}
    return {"chat_template_kwargs": {dialect: effort != "none"}}


def check_effort(effort: str) -> None:
    """Refuse what is no effort.

    Raises:
        RecipeError: it is none.
    """
    if effort not in EFFORTS:
        raise RecipeError(f"unknown effort {effort!r}", cure=f"the efforts are {', '.join(EFFORTS)}")


def check_effort_dialect(dialect: str) -> None:
    """Refuse what is no dialect of `effort_fields`.

    Raises:
        RecipeError: it is none.
    """
    if dialect not in EFFORT_DIALECTS:
        cure = f"the dialects are {', '.join(EFFORT_DIALECTS)}"
        raise RecipeError(f"unknown dialect {dialect!r} of reasoning effort", cure=cure)
