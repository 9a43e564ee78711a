"""Practice: every taught fact is recalled, the words do not tell what is known, and nothing held out is given away."""

from __future__ import annotations

from collections import Counter

import pytest

from laconic.data_gen.world import words
from laconic.data_gen.world.closed_book import taught_questions
from laconic.data_gen.world.episodes import teach_episodes
from laconic.data_gen.world.practice import practice
from laconic.data_gen.world.questions import draw_questions
from laconic.data_gen.world.schema import RELATIONS
from laconic.data_gen.world.world import World

WORLD = World(seed=4, size=150, facts_per_document=1, taught_by="entity", taught_share=0.3)
PROBLEMS = draw_questions(WORLD, "train", 200)
TAUGHT = [fact for fact in WORLD.facts.values() if fact.taught]


@pytest.fixture(scope="module")
def practised():
    return practice(WORLD, PROBLEMS, samples=2, taught_questions=3, recalls=5)


def in_words_of_a_statement(problem):
    fact = problem.meta["facts"][0]
    forms = {form.format(noun=RELATIONS[fact["relation"]].noun, s=fact["subject"]) for form in words.STATEMENT_PROMPTS}
    return problem.prompt in forms


def test_every_taught_fact_is_recalled_and_those_not_held_out_are_asked_about(practised):
    recalled = [p for p in practised.problems if practised.samples[p.id] == 5]
    keys = Counter((p.meta["facts"][0]["subject"], p.meta["facts"][0]["relation"]) for p in recalled)
    assert keys == Counter(fact.key for fact in TAUGHT)
    assert all(in_words_of_a_statement(p) and p.meta["least_searches"] == 0 for p in recalled)
    asked = {p.id for p in practised.problems if practised.samples[p.id] == 3}
    assert asked == {p.id for p in taught_questions(WORLD, "train")}
    assert practised.repeated == asked | {p.id for p in recalled}


def test_half_of_what_must_be_looked_up_is_asked_in_the_same_words(practised):
    missing = {
        p.id for p in PROBLEMS if p.meta["hops"] == 1 and p.meta["shape"] == "basic" and p.meta["least_searches"] == 1
    }
    plain = {p.id for p in practised.problems if p.id in missing}
    recast = (
        {p.id.removesuffix("-recall") for p in practised.problems if practised.samples[p.id] == 2}
        - {p.id for p in PROBLEMS if p.id not in missing}
        - plain
    )
    assert plain | recast == missing
    # 4 standard deviations of a fair coin.
    assert abs(len(recast) - len(missing) / 2) < 2 * len(missing) ** 0.5
    others = {p.id: p for p in practised.problems}
    for problem in PROBLEMS:
        if problem.id not in missing and practised.samples[problem.id] == 2:
            assert others[problem.id] == problem


def test_nothing_held_out_is_asked_or_said(practised):
    held_out = {p.prompt for p in (*taught_questions(WORLD, "test"), *draw_questions(WORLD, "test", 150))}
    assert not held_out & {p.prompt for p in practised.problems}
    lessons = teach_episodes(WORLD, practised.problems, samples=practised.samples, styles={"minimal": 1, "needless": 1})
    hidden = [f for f in WORLD.facts.values() if not f.taught and WORLD.fact_side(f.key) == "test"]
    said = " ".join(p.text for e in lessons.episodes for p in e.pieces if p.kind == "generated")
    assert not [f for f in hidden if any(f.sentence(wording) in said for wording in range(3))]
    recalled = [e for e in lessons.episodes if e.problem_id.endswith("-recall") and e.style == "minimal"]
    made = {p.id: p.meta["least_searches"] for p in practised.problems}
    assert {made[e.problem_id] for e in recalled} == {0, 1}
    assert all(len(e.searches) == made[e.problem_id] and e.correct for e in recalled)


def test_each_problem_has_its_own_number_of_episodes(practised):
    lessons = teach_episodes(WORLD, practised.problems, samples=practised.samples)
    assert Counter(e.problem_id for e in lessons.episodes) == practised.samples


def test_without_practice_the_problems_are_left_alone():
    alone = practice(WORLD, PROBLEMS, samples=2)
    assert alone.problems == PROBLEMS
    assert set(alone.samples.values()) == {2}
    assert not alone.repeated


def test_without_sets_every_answer_is_one_name_and_every_fact_has_its_page():
    world = World(seed=4, size=150, facts_per_document=1, sets=False)
    assert {len(fact.objects) for fact in world.facts.values()} == {1}
    assert {RELATIONS[fact.relation].is_function for fact in world.facts.values()} == {True}
    for fact in world.facts.values():
        (page,) = world.documents_of(fact.page)
        assert (
            not fact.stated
            or f"{fact.subject} : {RELATIONS[fact.relation].noun}" == world.document(page).title
            or (world.document(page).title == fact.subject)
        )
    asked = draw_questions(world, "train", 200, hops={1: 1, 2: 1, 3: 1})
    assert all(len(p.meta["answers"]) == 1 for p in asked if p.meta["shape"] == "basic")
    assert teach_episodes(world, asked).missed == ()
