"""What a world's teacher gives to a generate stage: episodes as rollouts, and closed-book statements as rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laconic.data_gen.world.closed_book import statements
from laconic.data_gen.world.episodes import Piece, TaughtEpisode, teach_episodes
from laconic.data_gen.world.questions import TASK
from laconic.data_gen.world.world import World
from laconic.inference.retrieval.protocol import Retriever
from laconic.rewards.records import Problem, Rollout

if TYPE_CHECKING:
    from laconic.recipes.search_model import SearchSpec


def taught_episodes(
    world: World,
    problems: Sequence[Problem],
    *,
    search: SearchSpec,
    retriever: Retriever,
    styles: Mapping[Any, float],
    samples: int | Mapping[str, int],
    seed: int,
) -> list[Rollout]:
    """Have the world's teacher answer questions by the recipe's own protocol and retriever.

    Problems whose pages the retriever does not find are given up, and it is said how many. The budget of searches is
    not the teacher's.

    Args:
        world: In which they are asked.
        problems: Training questions.
        search: The recipe's.
        retriever: The stage's; not closed.
        styles: Share of each style, in any unit.
        samples: Episodes per problem, one number for all or one for each id.
        seed: Of the stage.

    Returns:
        In the order of the problems. ``meta["search"]`` has what a model's episode has of it: `pieces`, `searches`,
        `finish`; ``meta["guessed"]`` is true where the answer came before the last search that was missing, and
        ``meta["needless"]`` counts searches for what was known. Tokens are words.
    """
    lessons = teach_episodes(
        world,
        problems,
        styles=styles,
        samples=samples,
        retriever=retriever,
        k=search.k,
        protocol=search.tags,
        document_tokens=search.document_tokens,
        seed=seed,
    )
    if lessons.missed:
        begun = len(lessons.missed) + len(lessons.episodes)
        print(f"{len(lessons.missed)} of {begun} episodes given up: a search did not find its page")
    numbers: Counter[str] = Counter()
    rollouts = []
    for episode in lessons.episodes:
        rollouts.append(_rollout(episode, numbers[episode.problem_id]))
        numbers[episode.problem_id] += 1
    return rollouts


def stated(world: World, *, repeats: int) -> list[dict[str, Any]]:
    """Training rows that state every taught fact, with the fact in the place of a problem's id.

    Args:
        world: Whose facts are taught.
        repeats: Rows per fact; twice as many as the world has wordings differ, then they begin again.
    """
    return [
        {
            "problem_id": f"fact/{row['subject']}/{row['relation']}",
            **{key: row[key] for key in ("prompt", "completion", "pieces")},
        }
        for row in statements(world, repeats=repeats)
    ]


def _rollout(episode: TaughtEpisode, sample: int) -> Rollout:
    said = [_words(piece) for piece in episode.pieces if piece.kind == "generated"]
    return Rollout(
        problem_id=episode.problem_id,
        sample=sample,
        task=TASK,
        text=episode.completion,
        answer=episode.answer,
        correct=episode.correct,
        finished=True,
        tokens=sum(said),
        think_tokens=sum(said[:-1]),
        answer_tokens=said[-1],
        source=episode.style,
        meta={
            "search": {
                "searches": list(episode.searches),
                "pieces": [{"kind": p.kind, "text": p.text, "tokens": _words(p)} for p in episode.pieces],
                "finish": "answer",
            },
            "guessed": episode.guessed,
            "needless": episode.needless,
        },
    )


def _words(piece: Piece) -> int:
    return len(piece.text.split())
