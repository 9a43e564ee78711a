"""The encyclopaedia and its questions: sizes, names, documents, answers, splits, and what is said of bad options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.data_gen.sources import gold_text
from laconic.data_gen.world.closed_book import statements, taught_questions
from laconic.data_gen.world.queries import Query, anchors
from laconic.data_gen.world.questions import draw_questions, single_fact
from laconic.data_gen.world.schema import RELATIONS, RELATIONS_OF, SHARES
from laconic.data_gen.world.spaced import vocabulary
from laconic.data_gen.world.world import World
from laconic.rewards.answers import verify
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.records import Problem

WORLD = World(seed=3, size=120, absent_share=0.1)


def mentioned(text, names):
    words = text.split()
    return {name for name in names for a, b in pairwise(words) if name == f"{a} {b}"}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(40, 150),
    distractors=st.floats(0, 1.5),
    paraphrases=st.integers(1, 3),
    per_page=st.integers(1, 5),
)
def test_every_world_is_sound(seed, size, distractors, paraphrases, per_page):
    world = World(seed=seed, size=size, distractors=distractors, paraphrases=paraphrases, facts_per_document=per_page)
    names = [entity.name for entity in world.entities]
    assert len(set(names)) == len(names)
    assert len(world.subjects) == size
    assert sum(entity.distractor for entity in world.entities) == round(size * distractors)
    ids = [document.id for document in world.documents]
    assert len(set(ids)) == len(ids)
    pages = sum(-(-len(RELATIONS_OF[e.kind]) // per_page) for e in world.entities if e.kind in SHARES)
    assert len(ids) == pages * paraphrases
    # Words are bounded: far fewer than names, and a tokenizer with these words knows every document.
    known = set(vocabulary(world))
    assert all(known.issuperset(f"{document.title} {document.text}".split()) for document in world.documents)
    for fact in world.facts.values():
        relation = RELATIONS[fact.relation]
        assert relation.members[0] <= len(fact.objects) <= relation.members[1]
        assert fact.subject not in fact.objects
        assert {world.by_name[name].kind for name in fact.objects} == {relation.object}
        assert not (fact.taught and not fact.stated)
    alike = {e.name: e.kind for e in world.entities if e.distractor}
    first = {word for name in world.subjects for word in name.split()}
    assert all(first.intersection(name.split()) for name in alike)


def test_a_fact_stands_on_its_page_in_every_wording_and_nowhere_else():
    world = World(seed=5, size=60, paraphrases=3, facts_per_document=2, absent_share=0.2)
    texts = {document.id: document.text for document in world.documents}
    for fact in world.facts.values():
        wordings = [{fact.sentence(wording)} for wording in range(3)]
        saying = {id for id, text in texts.items() if any(s <= set(text[:-2].split(" . ")) for s in wordings)}
        assert saying == (set(world.documents_of(fact.page)) if fact.stated else set())
    # Paraphrases differ in every sentence.
    for fact in filter(lambda fact: fact.stated, world.facts.values()):
        said = [set(texts[id][:-2].split(" . ")) for id in world.documents_of(fact.page)]
        assert not said[0] & said[1] | said[1] & said[2] | said[0] & said[2]


def test_with_one_wording_facts_are_said_with_the_noun():
    world = World(seed=5, size=60, wordings=1, absent_share=0)
    facts = [f"the {RELATIONS[f.relation].noun} of {f.subject} " for f in world.facts.values()]
    sentences = [text for document in world.documents for text in document.text[:-2].split(" . ")]
    assert all(text.startswith(fact) for text, fact in zip(sentences, facts, strict=True))
    completions = {row["completion"] for row in statements(world, repeats=4)}
    assert all(completion.startswith("the ") for completion in completions)
    assert len(completions) == sum(fact.taught for fact in world.facts.values())


def test_shares_are_exact():
    asked = [fact for fact in WORLD.facts.values() if not WORLD.by_name[fact.subject].distractor]
    stated = [fact for fact in asked if fact.stated]
    assert len(asked) - len(stated) == round(0.1 * len(asked))
    assert sum(fact.taught for fact in stated) == round(0.5 * len(stated))
    assert all(fact.stated and not fact.taught for fact in WORLD.unasked)
    whole = World(seed=3, size=120, taught_by="entity", taught_share=0.3)
    of_subject = {name: Counter() for name in whole.subjects}
    for fact in whole.facts.values():
        if fact.stated and fact.subject in of_subject:
            of_subject[fact.subject][fact.taught] += 1
    assert all(len(count) <= 1 for count in of_subject.values())
    everything = World(seed=3, size=120, taught_share=1.0, absent_share=0.0)
    assert all(fact.taught for fact in everything.facts.values() if fact not in everything.unasked)


def test_equal_in_every_process():
    script = (
        "from laconic.data_gen.world.world import World\n"
        "from laconic.data_gen.world.questions import draw_questions\n"
        "import hashlib, json\n"
        "world = World(seed=3, size=120, absent_share=0.1)\n"
        "rows = [d.to_row() for d in world.documents] + [p.to_json() for p in draw_questions(world, 'test', 40)]\n"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    run = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    ]
    assert run[0] == run[1] != ""


def test_more_options_do_not_reshuffle_the_names():
    """A share changes what is taught, not what is true."""
    other = World(seed=3, size=120, taught_share=0.9, absent_share=0.0, facts_per_document=1)
    assert [e.name for e in other.entities] == [e.name for e in WORLD.entities]
    assert {k: f.objects for k, f in other.facts.items()} == {k: f.objects for k, f in WORLD.facts.items()}


@pytest.fixture(scope="module")
def questions():
    return {split: draw_questions(WORLD, split, 300) for split in ("train", "test")}


def test_golds_are_accepted_and_others_are_not(questions):
    problems = questions["train"]
    assert all(gold_text(problem) == problem.answer for problem in problems)
    for problem, other in pairwise(problems):
        if problem.answer != other.answer:
            assert verify(other.answer, problem) is False
    sets = [problem for problem in problems if len(problem.meta["gold_entities"]) > 1]
    for problem in sets:
        members = problem.meta["gold_entities"]
        assert verify(" ; ".join(reversed(members)), problem)
        assert verify(" ; ".join(names[-1] for names in problem.meta["answers"]), problem)
        assert not verify(" ; ".join(members[1:]), problem)
        assert not verify(" ; ".join([*members, "nobody"]), problem)


def test_questions_have_the_shape_and_depth_that_they_say(questions):
    for problem in (*questions["train"], *questions["test"]):
        meta, form = problem.meta, problem.meta["form"]
        assert Problem.from_json(json.loads(json.dumps(problem.to_json()))) == problem
        assert Query.from_json(form).to_json() == form
        depth = max(map(len, form["paths"]))
        if meta["hops"] == 0:
            (fact,) = meta["facts"]
            assert WORLD.by_name[fact["subject"]].distractor
            assert set(problem.answer.split(" ; ")) == set(fact["objects"])
            assert all(name in problem.prompt for name in fact["objects"])
            assert meta["least_searches"] == 0
            continue
        if meta["shape"] == "reverse_union":
            (anchor,) = anchors([tuple(clue) for clue in form["clues"]], WORLD)
            assert (meta["hops"], len(form["clues"]), form["starts"]) == (depth + 1, 2, [])
            # The anchor is not named, or there would be nothing to find out.
            assert anchor not in mentioned(problem.prompt, WORLD.subjects)
        else:
            assert (meta["hops"], len(form["starts"])) == (depth, 2 if meta["shape"] == "union" else 1)
            assert mentioned(problem.prompt, WORLD.subjects) == set(form["starts"])
        assert not mentioned(problem.prompt, meta["gold_entities"])
        needed = [fact for fact in meta["facts"] if fact["needed"]]
        assert meta["answerable"] == all(fact["stated"] for fact in meta["facts"]) == (problem.answer != "unknown")
        # Whole articles: a page is a subject.
        assert meta["least_searches"] == len({fact["subject"] for fact in needed if not fact["taught"]})


def test_the_mix_is_the_one_asked_for():
    world = World(seed=1, size=400, absent_share=0.15)
    hops, shapes = {0: 1, 1: 2, 2: 1}, {"basic": 1, "union": 1, "reverse_union": 2}
    drawn = draw_questions(world, "train", 800, hops=hops, shapes=shapes, unanswerable=0.2)
    count = Counter(problem.meta["hops"] for problem in drawn)
    assert count[0] / 800 == pytest.approx(0.25, abs=0.05)
    assert count[1] / 800 == pytest.approx(0.5, abs=0.06)
    deep = [problem for problem in drawn if problem.meta["hops"]]
    assert sum(p.meta["shape"] == "reverse_union" for p in deep) / len(deep) == pytest.approx(0.5, abs=0.06)
    lost = [p for p in deep if (p.meta["hops"], p.meta["shape"]) != (1, "reverse_union")]
    assert sum(not p.meta["answerable"] for p in lost) / len(lost) == pytest.approx(0.2, abs=0.05)
    assert draw_questions(world, "train", 50, hops=hops, shapes=shapes, unanswerable=0.2) == drawn[:50]
    assert draw_questions(world, "train", 50, seed=1) != draw_questions(world, "train", 50)


def test_splits_share_no_question_and_no_untaught_fact(questions):
    facts = {
        split: {(f["subject"], f["relation"]) for p in problems for f in p.meta["facts"] if not f["taught"]}
        for split, problems in questions.items()
    }
    assert facts["train"]
    assert facts["test"]
    assert facts["train"].isdisjoint(facts["test"])
    paths = {
        split: {frozenset((f["subject"], f["relation"]) for f in p.meta["facts"]) for p in problems}
        for split, problems in questions.items()
    }
    assert paths["train"].isdisjoint(paths["test"])
    for problems in questions.values():
        assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems}) == 300


def test_taught_questions_are_split_and_complete():
    train, test = taught_questions(WORLD, "train"), taught_questions(WORLD, "test")
    taught = {key for key, fact in WORLD.facts.items() if fact.taught}
    keys = [{(f["subject"], f["relation"]) for p in side for f in p.meta["facts"]} for side in (train, test)]
    assert keys[0] | keys[1] == taught
    assert keys[0].isdisjoint(keys[1])
    assert len(train) + len(test) == len(taught)
    assert len(test) / len(taught) == pytest.approx(WORLD.held_out, abs=0.1)
    assert {problem.meta["least_searches"] for problem in (*train, *test)} == {0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 5}, "size is 5"),
        ({"taught_share": 1.5}, "taught_share is 1.5"),
        ({"paraphrases": 4}, "paraphrases is 4"),
        ({"wordings": 1, "paraphrases": 2}, "paraphrases is 2"),
        ({"wordings": 0}, "wordings is 0"),
        ({"facts_per_document": 0}, "facts_per_document is 0"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(RecipeError, match=said):
        World(**options)


def test_more_names_than_words():
    with pytest.raises(RecipeError, match="take"):
        World(size=400_000, spare_names=100).entities  # noqa: B018


def test_questions_that_cannot_be_drawn():
    with pytest.raises(RecipeError, match="hops has 4"):
        draw_questions(WORLD, "train", 1, hops={4: 1})
    with pytest.raises(RecipeError, match="shapes has 'star'"):
        draw_questions(WORLD, "train", 1, shapes={"star": 1})
    with pytest.raises(RecipeError, match="one is positive"):
        draw_questions(WORLD, "train", 1, hops={1: 0})
    with pytest.raises(RecipeError, match="unanswerable is 2"):
        draw_questions(WORLD, "train", 1, unanswerable=2)
    with pytest.raises(DataError, match=r"100000 train questions wanted, but only about [0-9]+ "):
        draw_questions(World(size=40, held_out=0.5), "train", 100_000, hops={1: 1}, shapes={"basic": 1})
    with pytest.raises(DataError, match="nothing is true of"):
        single_fact(WORLD, WORLD.subjects[0], "printed_by")


def test_a_world_without_distractors_has_no_questions_that_tell_their_fact():
    world = World(size=60, distractors=0)
    assert {p.meta["hops"] for p in draw_questions(world, "train", 40)} == {1, 2, 3}
