"""Think, search, read, answer: one episode of a search agent, the same in training, evaluation and serving.

    episode = await run_episode(ask, retriever, protocol=PROTOCOLS["search_r1"], max_searches=4)

The model speaks until it closes a search or an answer; the engine stops there. A search is carried out and its
documents are put in, shortened so that the closing tag always stands; then it is the model's turn again. Whatever is
put in is forced text of the branch: never counted as generated, never in `Episode.loss_mask`.

How this differs from Search-R1's loop: only executed searches are counted; the search after the last one is answered by
a notice, instead of being counted and left open; documents are shortened, not the closing tag; text after a closing tag
is never generated, instead of being cut and encoded again; and what is generated, retrieved or forced is known by its
token ids.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from laconic.inference.engine import Branch, Capability, Chunk, check_capabilities
from laconic.inference.episode_actions import Action, read_action
from laconic.inference.episode_documents import Count, counter, observation, special_texts
from laconic.inference.episode_pieces import Pieces
from laconic.inference.episode_protocols import PROTOCOLS, EpisodeProtocol, find_protocol
from laconic.inference.episode_record import Episode, EpisodeFinish, Piece, Search
from laconic.inference.retrieval.documents import Hit
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.errors import LaunchError, RecipeError

if TYPE_CHECKING:
    from laconic.inference.policies.base import Ask

__all__ = ["PROTOCOLS", "Episode", "EpisodeProtocol", "Piece", "Search", "find_protocol", "run_episode"]

NEEDS = (Capability.PREFIX, Capability.STOP)
"""What an episode needs of an engine."""
AfterSearch: TypeAlias = Callable[[Branch, tuple[Search, ...]], Awaitable[str | None]]
"""Looks at an episode after each observation: what to put in to conclude it, or None to let it go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeLimits:
    """How far an episode may go."""

    max_searches: int = 4
    k: int = 3
    document_tokens: int = 500
    turn_tokens: int | None = None
    context_tokens: int | None = None
    max_invalid: int = 2
    searches_enabled: bool = True

    def __post_init__(self) -> None:
        least = {"max_searches": 0, "k": 1, "document_tokens": 1, "turn_tokens": 1, "context_tokens": 1}
        for name, low in (least | {"max_invalid": 0}).items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise RecipeError(f"episode: {name}={value}", cure=f"give {low} or more")

    @property
    def may_search(self) -> bool:
        """Whether any search can be carried out."""
        return self.searches_enabled and self.max_searches > 0


async def run_episode(
    ask: Ask,
    retriever: Retriever | None,
    *,
    protocol: EpisodeProtocol | str,
    max_searches: int = 4,
    k: int = 3,
    document_tokens: int = 500,
    turn_tokens: int | None = None,
    context_tokens: int | None = None,
    max_invalid: int = 2,
    searches_enabled: bool = True,
    count: Count | None = None,
    after_search: AfterSearch | None = None,
    sample: int = 0,
    follow: bool = False,
) -> Episode:
    """Let the model think and search until it answers; `ask.sampling.max_tokens` limits what it generates in all.

    T searches are carried out at most, and a final generation follows them. One more search is answered by the
    protocol's notice, the next one ends the episode. Where searches are disabled, every search up to the budget is
    answered by the protocol's empty observation. Turns that ask for a search are counted as thinking, the one that
    answers as answer. The branch is closed as kept; if the episode fails or is cancelled, as discarded.

    The defaults are Search-R1's (4 turns in its v0.2 and v0.3, 3 documents, 500 tokens), but for `max_invalid`, ours.

    Args:
        ask: The question; its prompt is asked as it is (`EpisodeProtocol.prompt` writes one).
        retriever: Where it searches; share a batching one among concurrent episodes. None where nothing is searched.
        protocol: Tags and sentences, or their name.
        max_searches: T.
        k: Documents per search.
        document_tokens: Of the documents of one search, as the model is shown them.
        turn_tokens: Generated tokens of one turn; None: what is left of all. A turn cut by it is an invalid action.
        context_tokens: Prompt and text, as the model can hold them; None: no limit but the engine's own.
        max_invalid: Invalid actions that are answered by the hint; one more ends the episode.
        searches_enabled: Whether searches are carried out at all.
        count: How document tokens are counted; None: by the engine's tokenizer, by words if it has none.
        after_search: Looks at the episode after each observation and may conclude it.
        sample: Episodes of one question differ by it, reproducibly.
        follow: The listener of the question hears it.

    Raises:
        RecipeError: there is no protocol of that name, or a limit is out of range.
        LaunchError: the engine cannot go on from a prefix or stop at texts, there is no retriever, or it failed.
    """
    limits = EpisodeLimits(
        max_searches=max_searches,
        k=k,
        document_tokens=document_tokens,
        turn_tokens=turn_tokens,
        context_tokens=context_tokens,
        max_invalid=max_invalid,
        searches_enabled=searches_enabled,
    )
    chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
    check_capabilities(ask.engine, NEEDS, who="a search episode")
    if retriever is None and limits.may_search:
        raise LaunchError("a search episode needs a retriever", cure="give one, or disable searches")
    tokenizer = getattr(ask.engine, "tokenizer", None)
    count = count or counter(tokenizer)
    # The end of a turn, written in a document, would be read as one.
    chosen = replace(chosen, reserved=(*chosen.reserved, *sorted(special_texts(tokenizer))))
    prompt_before = ask.ledger.prompt
    async with ask.open(sample=sample, follow=follow) as branch:
        run = _Run(ask, branch, chosen, limits, retriever, count, after_search, prompt_before)
        episode = await run.to_the_end()
        await branch.close("kept")
    return episode


class _Run:
    """An episode that is under way."""

    def __init__(
        self,
        ask: Ask,
        branch: Branch,
        protocol: EpisodeProtocol,
        limits: EpisodeLimits,
        retriever: Retriever | None,
        count: Count,
        after_search: AfterSearch | None,
        prompt_before: int,
    ) -> None:
        self.ask, self.branch, self.protocol, self.limits = ask, branch, protocol, limits
        self.retriever, self.count, self.after_search = retriever, count, after_search
        self.pieces = Pieces(branch, ask.ledger)
        self.searches: list[Search] = []
        self.invalid = self.refused = self.turns = 0
        self.noticed = False
        self.answer: str | None = None
        self.finish: EpisodeFinish | None = None
        self._prompt_before = prompt_before

    async def to_the_end(self) -> Episode:
        """Turn after turn."""
        while self.finish is None:
            await self._turn()
        return Episode(
            text=self.branch.text,
            pieces=tuple(self.pieces.pieces),
            searches=tuple(self.searches),
            invalid=self.invalid,
            refused=self.refused,
            turns=self.turns,
            answer=self.answer,
            finish=self.finish,
            ledger=self.ask.ledger,
        )

    async def _turn(self) -> None:
        chunk = await self._generate([self.protocol.search_close, self.protocol.answer_close])
        if chunk is None:
            self.finish = "length"
            return
        action = read_action(self.protocol, chunk.text)
        if action.kind == "answer":
            self._answered(action)
        elif action.kind == "search":
            await self._asked(action.text)
        elif chunk.reason == "length" and self._room() < 1:
            self.finish = "length"
        else:
            await self._answer_invalid()

    async def _generate(self, stop: list[str]) -> Chunk | None:
        """One generation; None if there is no room for any."""
        room = self._room()
        if room < 1:
            return None
        self.turns += 1
        return await self.pieces.generate(max_tokens=min(room, self.limits.turn_tokens or room), stop=stop)

    def _room(self) -> int:
        """Tokens that may still be generated."""
        room = self.ask.sampling.max_tokens - self.pieces.generated
        if self.limits.context_tokens is None:
            return room
        prompt = self.ask.ledger.prompt - self._prompt_before
        return min(room, self.limits.context_tokens - prompt - self.pieces.tokens)

    def _answered(self, action: Action) -> None:
        self.branch.relabel("answer")
        self.answer, self.finish = action.text, "answer"

    async def _answer_invalid(self) -> None:
        self.invalid += 1
        if self.invalid > self.limits.max_invalid:
            self.finish = "invalid"
        else:
            await self.pieces.insert("forced", self.protocol.hint)

    async def _asked(self, query: str) -> None:
        if len(self.searches) + self.refused >= self.limits.max_searches:
            await self._refuse()
        elif not self.limits.searches_enabled:
            self.refused += 1
            await self.pieces.insert("forced", self.protocol.disabled)
        else:
            await self._search(query)

    async def _refuse(self) -> None:
        self.refused += 1
        if self.noticed or not self.protocol.notice:
            self.finish = "budget"
        else:
            self.noticed = True
            await self.pieces.insert("forced", self.protocol.notice)

    async def _search(self, query: str) -> None:
        hits = await self._found(query)
        shown = observation(self.protocol, hits, limit=self.limits.document_tokens, count=self.count)
        await self.pieces.insert("retrieved" if shown.documents else "forced", shown.text)
        ids, scores = tuple(hit.document.id for hit in hits), tuple(hit.score for hit in hits)
        self.searches.append(Search(query, ids, self.turns - 1, scores, shown.documents))
        if self.after_search is not None:
            conclusion = await self.after_search(self.branch, tuple(self.searches))
            if conclusion is not None:
                await self._conclude(conclusion)

    async def _found(self, query: str) -> list[Hit]:
        assert self.retriever is not None
        found = await self.retriever.search([query], k=self.limits.k)
        if len(found) != 1 or len(found[0]) > self.limits.k:
            message = f"the retriever gave {[len(hits) for hits in found]} hits for one query and k={self.limits.k}"
            raise LaunchError(message, cure="mend the retriever: one list per query, at most k hits in it")
        return found[0]

    async def _conclude(self, text: str) -> None:
        """Put in what concludes the episode; the model completes it where it leaves the answer open."""
        await self.pieces.insert("forced", text)
        close = self.protocol.answer_close
        ended = True
        if not text.endswith(close):
            chunk = await self._generate([close])
            ended = chunk is not None and chunk.reason != "length"
            if chunk is not None:
                self.branch.relabel("answer")
                text += chunk.text
        # A model that ends the sequence instead of the answer has given it all the same.
        action = read_action(self.protocol, text if text.endswith(close) else text + close)
        self.answer = action.text if ended and action.kind == "answer" else None
        self.finish = "length" if not ended else "invalid" if self.answer is None else "answer"
