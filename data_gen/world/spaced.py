"""All the words that a world's texts can contain in the protocol `SPACED`, where blanks are around every word.

For tokenizers with one token per word, as `tokenizer: symbolic` builds them: nothing that is shown, asked or written is
then an unknown word.
"""

from __future__ import annotations

from laconic.data_gen.world.schema import ALIASES
from laconic.data_gen.world.words import TEMPLATE_WORDS
from laconic.data_gen.world.world import World
from laconic.inference.episode_protocols import SPACED
from laconic.rewards.short_answers import UNKNOWN_SPELLINGS

__all__ = ["SPACED", "vocabulary"]

_TAGS = ("<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>")


def vocabulary(world: World, *, k: int = 10) -> list[str]:
    """Every word of the world's prompts, documents and episodes, sorted.

    Args:
        world: Whose names are among them.
        k: Most documents that a search brings in.
    """
    said = [SPACED.information_open, SPACED.information_close, SPACED.document, SPACED.untitled, SPACED.closed_book]
    said += [SPACED.hint, SPACED.notice, SPACED.disabled, SPACED.nothing, *ALIASES.values(), *UNKNOWN_SPELLINGS[:2]]
    fields = {"{question}", "{number}", "{title}", "{text}", "{}"}
    words = {word for text in said for word in text.split()} - fields
    names = {word for entity in world.entities for word in entity.name.split()}
    return sorted(words | names | TEMPLATE_WORDS | set(_TAGS) | {str(number) for number in range(1, k + 1)})
