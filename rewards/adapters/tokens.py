"""The tokenizer that adapters count with, where a framework passes texts."""

from __future__ import annotations

from typing import Any


def load_tokenizer(given: Any) -> Any:
    """A Hugging Face tokenizer from the path of its folder; any other object, or None, as it is."""
    if not isinstance(given, str):
        return given
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(given)
