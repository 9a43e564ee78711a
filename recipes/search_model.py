"""`search:` of a recipe: where its models search while they think, how they ask, and how often they may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from laconic.recipes.model_spec import ModelSpec
from laconic.recipes.strict import Count, StrictModel, suggest

if TYPE_CHECKING:
    from laconic.inference.episode_protocols import EpisodeProtocol

WORLD = "world"
"""As a retriever: the documents of the recipe's own `problems: {source: world}`."""
SPACED = "spaced"
"""The protocol for `tokenizer: symbolic`."""


def _protocol(name: str) -> str:
    from laconic.inference.episode_protocols import PROTOCOLS

    if name not in PROTOCOLS:
        raise ValueError(f"found {name!r}; {suggest(name, list(PROTOCOLS))}")
    return name


class SearchSpec(StrictModel):
    """With it, models of generate, grpo and eval stages are run in search episodes (`laconic.inference.episode`).

    The defaults are Search-R1's: 4 searches in its v0.2 and v0.3, 3 documents each, 500 tokens of them shown.
    """

    retriever: str = WORLD
    """`world` (the documents of the recipe's own world, BM25 in this process), a corpus `FILE.jsonl`, an index folder,
    or the URL of a retrieval server."""
    protocol: Annotated[str, AfterValidator(_protocol)] = "search_r1"
    """Tags and sentences: search_r1, mash, ikea, evinote, r1_searcher, research, tool_calls, or `spaced`."""
    k: Count = 3
    """Documents per search."""
    max_searches: Annotated[int, Field(ge=0)] = 4
    """Searches of one episode that are carried out."""
    document_tokens: Count = 500
    """Tokens of the documents of one search, as the model is shown them."""
    turn_tokens: Count | None = None
    """Generated tokens of one turn; unset: what is left of all."""
    context_tokens: Count | None = None
    """Prompt and episode together; unset: the `max_length` of a model from scratch, else no limit but the engine's."""
    max_invalid: Annotated[int, Field(ge=0)] = 2
    """Invalid actions that are answered by a hint; one more ends the episode."""
    instruct: bool = True
    """Put the protocol's instruction around the question."""

    @property
    def tags(self) -> EpisodeProtocol:
        """The protocol itself."""
        from laconic.inference.episode_protocols import find_protocol

        return find_protocol(self.protocol)

    def prompt(self, question: str, *, searches_enabled: bool = True) -> str:
        """The user message that asks a question.

        Args:
            question: As the problem has it.
            searches_enabled: Whether the episode may search.
        """
        return self.tags.prompt(question, searches_enabled=searches_enabled) if self.instruct else question

    def settings(self, model: ModelSpec | None = None) -> dict[str, Any]:
        """Keyword arguments of `laconic.inference.episode.run_episode`.

        Args:
            model: Whose `max_length` is the limit of the context where the recipe sets none.
        """
        scratch = None if model is None else model.scratch
        names = ("max_searches", "k", "document_tokens", "turn_tokens", "max_invalid")
        context = self.context_tokens or (None if scratch is None else scratch.max_length)
        return {name: getattr(self, name) for name in names} | {"protocol": self.tags, "context_tokens": context}
