"""What a model is taught closed-book: statements of the taught facts, and questions about some of them, with the prompt
of episodes that cannot search or without.

Nothing here is about a fact that is not taught. All taught facts are stated; those of them whose question is held out
for testing are only stated, so that a right answer to it is recalled and not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

from laconic.data_gen.split import Split
from laconic.data_gen.world import words
from laconic.data_gen.world.queries import side_of
from laconic.data_gen.world.questions import problem_of, single_fact
from laconic.data_gen.world.schema import END, RELATIONS
from laconic.data_gen.world.world import World
from laconic.rewards.records import Problem


def statements(world: World, *, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Training rows that state every taught fact.

    Args:
        world: Whose facts are taught.
        repeats: Rows per fact; twice as many as the world has wordings differ, then they begin again. [rows]

    Yields:
        ``{"prompt", "completion", "pieces", "subject", "relation"}``; the only piece is generated.
    """
    forms = [(prompt, wording) for wording, prompt in product(range(world.wordings), words.STATEMENT_PROMPTS)]
    for fact in world.facts.values():
        if not fact.taught:
            continue
        order = Random(f"{world.seed}/statements/{'/'.join(fact.key)}").sample(forms, len(forms))
        for place in range(repeats):
            prompt, wording = order[place % len(forms)]
            said = fact.sentence(wording) + END
            yield {
                "prompt": prompt.format(noun=RELATIONS[fact.relation].noun, s=fact.subject),
                "completion": said,
                "pieces": [{"text": said, "kind": "generated"}],
                "subject": fact.subject,
                "relation": fact.relation,
            }


def taught_questions(world: World, split: Split, *, seed: int = 0) -> list[Problem]:
    """The question for every taught fact of one split, to be answered without a search.

    As training rows they become episodes with `laconic.data_gen.world.episodes.teach_episodes`, like all others.
    """
    rng = Random(f"{world.seed}/taught/{split}/{seed}")
    queries = (single_fact(world, *fact.key) for fact in world.facts.values() if fact.taught)
    return [problem_of(world, query, rng) for query in queries if side_of(query, world) == split]


def asked_from_memory(
    rows: Sequence[Mapping[str, Any]], problems: Mapping[str, Problem], *, share: float, seed: str
) -> frozenset[int]:
    """Which of the teacher's rows are to be asked with the prompt of episodes that cannot search.

    A model that is to be trained with half of its rollouts search-disabled has then met that prompt.

    Args:
        rows: With `problem_id` and `pieces`.
        problems: By id.
        share: Of the rows in which what was taught is answered from memory, without a search. [-]
        seed: Draws them.

    Returns:
        Their places; the nearest whole number to the share.
    """
    known = [place for place, row in enumerate(rows) if _from_memory(row, problems[row["problem_id"]])]
    return frozenset(Random(f"{seed}/closed_book").sample(known, round(share * len(known))))


def _from_memory(row: Mapping[str, Any], problem: Problem) -> bool:
    """Nothing was searched, nothing had to be, and the prompt does not tell it either."""
    searched = any(piece["kind"] == "retrieved" for piece in row["pieces"])
    return problem.meta["hops"] > 0 and problem.meta["least_searches"] == 0 and not searched
