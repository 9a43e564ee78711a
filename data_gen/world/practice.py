"""What a world's teacher practises beside the training questions: recalling what was taught, and knowing what was not.

A statement alone teaches a fact, but not that one knows it: a small model then answers the taught questions that it was
trained on and searches for those that are held out. So every taught fact is also asked for in the words of
`laconic.data_gen.world.closed_book.statements`, which no question uses, and answered from memory. Half of the training
questions about facts that are not taught are asked in these words too, lest the words alone tell what is known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random

from laconic.data_gen.world import words
from laconic.data_gen.world.closed_book import taught_questions as asked_about
from laconic.data_gen.world.questions import problem_of, single_fact
from laconic.data_gen.world.schema import RELATIONS
from laconic.data_gen.world.world import World
from laconic.rewards.records import Problem

_MARK = "-recall"
"""At the end of the id of a problem that is asked in a statement's words: it is no other's."""


@dataclass(frozen=True, slots=True)
class Practice:
    """Problems for a teacher, none twice."""

    problems: list[Problem]
    samples: dict[str, int]
    """Episodes of each problem, by id."""
    repeated: frozenset[str]
    """Ids of those whose episodes are repeated on purpose."""


def practice(
    world: World,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    taught_questions: int = 0,
    recalls: int = 0,
    seed: int = 0,
    left_out: Collection[str] = (),
) -> Practice:
    """Training problems, and what is practised beside them.

    Args:
        world: In which they are asked.
        problems: Training questions.
        samples: Episodes of each of them.
        taught_questions: Episodes for every taught fact whose question is not held out; 0 adds no question.
        recalls: Episodes for every taught fact, held out or not, asked in a statement's words. Where it is positive,
            half of the training questions for one fact that is not taught are asked in these words instead.
        seed: Draws the wordings, and the half.
        left_out: Ids of questions that are not asked, though their facts are recalled.
    """
    rng = Random(f"{world.seed}/practice/{seed}")
    plan = [(problem, samples) for problem in problems]
    if recalls:
        plan = [(_recast(p, rng) if _is_missing_fact(p) and rng.random() < 0.5 else p, n) for p, n in plan]
    known = [p for p in asked_about(world, "train", seed=seed) if p.id not in left_out] if taught_questions else []
    facts = [fact for fact in world.facts.values() if fact.taught] if recalls else []
    recalled = [_recast(problem_of(world, single_fact(world, *fact.key), rng), rng) for fact in facts]
    more = [*((problem, taught_questions) for problem in known), *((problem, recalls) for problem in recalled)]
    merged = {problem.id: (problem, n) for problem, n in (*plan, *more)}
    return Practice(
        problems=[problem for problem, _ in merged.values()],
        samples={id: n for id, (_, n) in merged.items()},
        repeated=frozenset(problem.id for problem, _ in more),
    )


def _is_missing_fact(problem: Problem) -> bool:
    """Whether a problem asks for one fact that has to be looked up."""
    return problem.meta["hops"] == 1 and problem.meta["shape"] == "basic" and problem.meta["least_searches"] == 1


def _recast(problem: Problem, rng: Random) -> Problem:
    """The problem for one fact in the words of a statement's prompt."""
    fact = problem.meta["facts"][0]
    prompt = rng.choice(words.STATEMENT_PROMPTS).format(noun=RELATIONS[fact["relation"]].noun, s=fact["subject"])
    return replace(problem, id=f"{problem.id}{_MARK}", prompt=prompt)
