r"""Reading what stands in ``\boxed{}``."""

from __future__ import annotations

_OPEN = "\\boxed{"


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{}``, inner braces and all; None if there is none or it is never closed.

    >>> last_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = text.rfind(_OPEN)
    if start < 0:
        return None
    content, depth = text[start + len(_OPEN) :], 1
    for place, character in enumerate(content):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return content[:place]
    return None
