"""What policies that search share: their parameters, where they search, and what they make of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from laconic.inference.engine import Message, Prompt
from laconic.inference.episode import EpisodeLimits, run_episode
from laconic.inference.episode_protocols import EpisodeProtocol, find_protocol
from laconic.inference.episode_record import Episode, EpisodeFinish
from laconic.inference.policies.base import Answer, Ask, Finish
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.errors import LaunchError

_FINISHES: Mapping[EpisodeFinish, Finish] = {
    "answer": "stop",
    "length": "length",
    "budget": "policy_stop",
    "invalid": "policy_stop",
}


@dataclass(frozen=True, kw_only=True)
class Searching:
    """A question answered by an episode of thinking and searching.

    It searches where the question says (`Ask.retriever`). `notes` hold every search, the actions that could not be
    carried out, and as ``citations`` the ids of the documents the model was shown.

    Args:
        protocol: Tags and sentences: search_r1, mash, ikea, evinote, r1_searcher, research, tool_calls, or spaced for
            tokenizers with one token per word.
        max_searches: Searches that are carried out at most.
        k: Documents per search.
        document_tokens: Of the documents of one search, as the model is shown them.
        turn_tokens: Generated tokens of one turn; None: what is left of all.
        context_tokens: Prompt and text, as the model can hold them; None: no limit but the engine's own.
        max_invalid: Invalid actions that are answered by a hint.
        searches_enabled: Whether searches are carried out; if not, they are answered by an empty observation.
        instruct: Put the protocol's instruction around the question. Leave it out where prompts have one, or where the
            model was trained without.
    """

    protocol: str = "search_r1"
    max_searches: int = 4
    k: int = 3
    document_tokens: int = 500
    turn_tokens: int | None = None
    context_tokens: int | None = None
    max_invalid: int = 2
    searches_enabled: bool = True
    instruct: bool = True

    def __post_init__(self) -> None:
        find_protocol(self.protocol)
        self.limits()

    @property
    def tags(self) -> EpisodeProtocol:
        """The protocol itself."""
        return find_protocol(self.protocol)

    def limits(self) -> EpisodeLimits:
        """How far its episodes go."""
        names = EpisodeLimits.__dataclass_fields__
        return EpisodeLimits(**{name: getattr(self, name) for name in names})

    def asked(self, ask: Ask) -> Ask:
        """The question as the model is asked it; ledger and branches stay those of the question.

        Raises:
            LaunchError: the question does not say where to search.
        """
        self.retriever(ask)
        if not self.instruct:
            return ask
        enabled = self.limits().may_search
        return replace(ask, prompt=instructed(ask.prompt, self.tags, searches_enabled=enabled))

    def retriever(self, ask: Ask) -> Retriever | None:
        """Where it searches.

        Raises:
            LaunchError: the question does not say.
        """
        if ask.retriever is None and self.limits().may_search:
            raise LaunchError("a policy that searches needs a retriever", cure="pass one (--retriever, Ask.retriever)")
        return ask.retriever

    async def episode(self, ask: Ask, **settings: Any) -> Episode:
        """One episode about a question as the model is asked it.

        Args:
            ask: What `asked` gave.
            settings: Further arguments of `run_episode`.
        """
        limits = self.limits()
        given = {name: getattr(limits, name) for name in limits.__dataclass_fields__}
        return await run_episode(ask, self.retriever(ask), protocol=self.tags, **given, **settings)


def instructed(prompt: Prompt, protocol: EpisodeProtocol, *, searches_enabled: bool = True) -> Prompt:
    """A prompt whose last message is put into the protocol's instruction.

    Args:
        prompt: A question, or a conversation that ends with one.
        protocol: Whose instruction.
        searches_enabled: Whether the episode may search.
    """
    if isinstance(prompt, str):
        return protocol.prompt(prompt, searches_enabled=searches_enabled)
    *before, last = prompt
    question: Message = {**last, "content": protocol.prompt(last["content"], searches_enabled=searches_enabled)}
    return [*before, question]


def answered(ask: Ask, episode: Episode, **notes: Any) -> Answer:
    """An episode as an answer.

    Args:
        ask: The question; it reads the answer between the tags as any other.
        episode: How it was answered.
        notes: What else the policy looked at.
    """
    answer = None if episode.answer is None else ask.extract(episode.answer)
    told = {
        "citations": list(episode.citations),
        "searches": [search.to_json() for search in episode.searches],
        "invalid": episode.invalid,
        "refused": episode.refused,
        "finish": episode.finish,
        "retrieved_tokens": episode.retrieved_tokens,
    }
    return Answer(episode.text, answer, _FINISHES[episode.finish], ask.ledger, notes=told | notes)
