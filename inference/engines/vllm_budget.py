"""Whether vLLM kept to `thinking_token_budget`: what was thought is counted after the fact.

vLLM finds the thinking by token ids, those of the tags' texts. A model that spells a tag with other tokens thinks on
without any bound, and an engine without `ReasoningConfig` or of another version may take the field for nothing; here
the text decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from laconic.rewards.errors import LaunchError


def thinking_sections(
    pieces: Sequence[str], tags: tuple[str, str], *, opens: bool = False, new_from: int = 0
) -> list[tuple[int, int]]:
    """Tokens of every stretch of thinking: those before `new_from`, and those from there on.

    A token counts where it shares a character with the stretch between the tags, blanks at its ends aside; one of
    blanks, or without text, where it begins inside.

    >>> thinking_sections(["<think>", "so", " 7", "</think>", "7"], ("<think>", "</think>"))
    [(0, 2)]

    Args:
        pieces: What follows the prompt: the text of each token.
        tags: What opens and closes thinking.
        opens: The prompt ends with the opening tag.
        new_from: The first token of the newest generation.
    """
    text = "".join(pieces)
    mark = len("".join(pieces[:new_from]))
    sections = []
    for start, end in _stretches(text, tags, opens=opens):
        # As vLLM does with what it goes on from: another opening tag begins the count anew.
        counted = max(start, text.rfind(tags[0], 0, min(mark, end)) + len(tags[0]))
        before = new = at = 0
        for number, piece in enumerate(pieces):
            if core := piece.strip():
                place = at + piece.index(core)
                inside = (start if number >= new_from else counted) < place + len(core) and place < end
            else:
                inside = (start if number >= new_from else counted) <= at < end
            before += inside and number < new_from
            new += inside and number >= new_from
            at += len(piece)
        sections.append((before, new))
    return sections


def check_budget(
    budget: int, pieces: Sequence[str], tags: tuple[str, str], *, opens: bool = False, new_from: int = 0
) -> None:
    """Refuse what is longer than it was to be. What was thought before counts, forced text included, as in vLLM.

    Raises:
        LaunchError: the newest generation thought for longer than was left of the budget.
    """
    for before, new in thinking_sections(pieces, tags, opens=opens, new_from=new_from):
        left = max(0, budget - before)
        if new > left:
            raise LaunchError(
                f"vLLM let the model think for {new} tokens, where thinking_token_budget={budget} left {left}",
                cure="check the tags of vLLM's reasoning_config, or leave the budget to the policy think_budget, which "
                "stops and goes on by itself",
            )


def _stretches(text: str, tags: tuple[str, str], *, opens: bool) -> list[tuple[int, int]]:
    opening, closing = tags
    found = []
    start = 0 if opens else _after(text, opening, 0)
    while start is not None:
        end = text.find(closing, start)
        found.append((start, len(text) if end < 0 else end))
        start = None if end < 0 else _after(text, opening, end + len(closing))
    return found


def _after(text: str, tag: str, start: int) -> int | None:
    place = text.find(tag, start)
    return None if place < 0 else place + len(tag)
