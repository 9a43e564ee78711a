"""What holds for every registered reward, whatever it computes, and what a registration claims.

A new reward is held to all of this by being registered.
"""

import dataclasses
import doctest
import importlib
import json
import pkgutil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import laconic.rewards
from laconic.rewards import REWARDS, Batch, Group, Progress
from laconic.rewards.example import group_of, random_group, random_rollout, random_search
from laconic.rewards.group import COLUMNS
from laconic.rewards.registry import CLAIMS

NAMES = sorted(REWARDS)
ROLLOUT_COLUMNS = [name for name, column in COLUMNS.items() if column.owner == "rollout"]
EITHER = st.booleans()
LENGTHS = st.integers(1, 32768)
SEARCHES = st.integers(0, 4)


@st.composite
def rollouts(draw, correct=EITHER, finished=EITHER, length=LENGTHS):
    """Rows of one group; what matters most is drawn, the rest follows from a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kept = st.sampled_from([True, True, True, False])
    drawn = {"correct": correct, "finished": finished, "well_formed": kept, "length": length, "searches": SEARCHES}
    return [
        random_rollout(rng, **{name: draw(values) for name, values in drawn.items()})
        for _ in range(draw(st.integers(1, 9)))
    ]


GROUPS = rollouts().map(lambda rows: group_of(rows, progress=Progress(30, 100)))


def take(group, order):
    """The rollouts of a group at these places."""
    values = {name: getattr(group, name) for name in ROLLOUT_COLUMNS}
    taken = {k: v[order] if isinstance(v, np.ndarray) else tuple(v[i] for i in order) for k, v in values.items()}
    return dataclasses.replace(group, **taken)


def right(group):
    return group.correct & group.finished & group.well_formed


def fresh(name, *history):
    """A scorer that has already seen these batches, if it remembers anything."""
    scorer = REWARDS[name].build()
    for batch in history:
        scorer(batch)
    return scorer


def with_claim(claim):
    assert claim in CLAIMS
    return pytest.mark.parametrize("name", [name for name in NAMES if claim in REWARDS[name].claims])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(group=GROUPS, before=GROUPS, seed=st.integers(0, 2**32 - 1))
def test_shape_finite_and_equivariant(name, group, before, seed):
    rewards = fresh(name, before)(group)
    assert rewards.shape == (group.size,)
    assert not np.isinf(rewards).any()
    assert REWARDS[name].abstains or not np.isnan(rewards).any()
    order = np.random.default_rng(seed).permutation(group.size)
    np.testing.assert_allclose(fresh(name, before)(take(group, order)), rewards[order], atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if REWARDS[name].scope != "batch"])
@settings(max_examples=25, deadline=None)
@given(group=GROUPS, other=GROUPS)
def test_independent_of_other_groups(name, group, other):
    other = dataclasses.replace(other, problem_id="other")
    alone = fresh(name)(group)
    np.testing.assert_array_equal(fresh(name)(Batch.of(other, group))[other.size :], alone)
    if REWARDS[name].scope == "rollout":
        singles = [fresh(name)(take(group, [i]))[0] for i in range(group.size)]
        np.testing.assert_allclose(singles, alone, atol=1e-12)


SHAPES = {
    "all wrong": rollouts(correct=st.just(False)),
    "all right": rollouts(correct=st.just(True), finished=st.just(True)),
    "equal lengths": rollouts(length=st.just(7)),
    "all truncated": rollouts(finished=st.just(False)),
    "one right": rollouts(correct=st.just(False)).map(lambda rows: [rows[0] | {"correct": True}, *rows[1:]]),
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_defined_for_every_kind_of_group(shape, data):
    group = group_of(data.draw(SHAPES[shape]))
    for name in NAMES:
        for given_group in (group, take(group, [0])):
            rewards = fresh(name)(given_group)
            assert rewards.shape == (given_group.size,), name
            assert REWARDS[name].abstains or np.isfinite(rewards).all(), name


@pytest.mark.parametrize("name", NAMES)
def test_says_whether_it_matters_how_a_rollout_ended(name):
    moved = False
    for seed in range(60):
        group = random_group(6, seed=seed)
        other = dataclasses.replace(group, finished=~group.finished)
        moved |= not np.array_equal(fresh(name)(group), fresh(name)(other), equal_nan=True)
    assert moved == ("finished" in REWARDS[name].uses)


@pytest.mark.parametrize("name", NAMES)
def test_defined_without_optional_columns(name):
    """Only what it says it needs, and an unknown problem."""
    rng = np.random.default_rng(0)
    full = group_of([random_rollout(rng, correct=bool(i % 2), finished=True) for i in range(6)])
    needed = {column: getattr(full, column) for column in REWARDS[name].needs}
    bare = Group(correct=full.correct, length=full.length, **needed)
    assert fresh(name)(bare).shape == (6,)


@with_claim("right_above_wrong")
@settings(max_examples=40, deadline=None)
@given(group=GROUPS, before=GROUPS)
def test_right_above_wrong(name, group, before):
    assume(right(group).any() and not group.correct.all())
    rewards = fresh(name, before)(group)
    # NaN, an abstention, is no lower reward.
    assert not np.nanmin([*rewards[right(group)], np.inf]) < np.nanmax([*rewards[~group.correct], -np.inf]) - 1e-9


@with_claim("shorter_is_no_worse")
@settings(max_examples=40, deadline=None)
@given(rows=rollouts(), before=GROUPS, more=st.integers(1, 5000))
def test_shorter_is_no_worse(name, rows, before, more):
    short = rows[0] | {"correct": True, "finished": True, "well_formed": True}
    long = short | {"length": short["length"] + more, "think_length": short["think_length"] + more}
    rewards = fresh(name, before)(group_of([short, long, *rows[1:]]))
    assert not rewards[1] > rewards[0] + 1e-9


@with_claim("no_length_pressure_on_wrong")
@settings(max_examples=40, deadline=None)
@given(rows=rollouts(), before=GROUPS, more=st.integers(1, 5000))
def test_no_length_pressure_on_wrong(name, rows, before, more):
    wrong = rows[0] | {"correct": False}
    longer = wrong | {"length": wrong["length"] + more, "think_length": wrong["think_length"] + more}
    first, second = (fresh(name, before)(group_of([row, *rows[1:]]))[0] for row in (wrong, longer))
    np.testing.assert_equal(first, second)


@with_claim("fewer_searches_is_no_worse")
@settings(max_examples=40, deadline=None)
@given(rows=rollouts(), before=GROUPS, more=st.integers(1, 3))
def test_fewer_searches_is_no_worse(name, rows, before, more):
    few = rows[0] | {"correct": True, "finished": True, "well_formed": True}
    rewards = fresh(name, before)(group_of([few, searched_more(few, more), *rows[1:]]))
    assert not rewards[1] > rewards[0] + 1e-9


@with_claim("no_search_pressure_on_wrong")
@settings(max_examples=40, deadline=None)
@given(rows=rollouts(), before=GROUPS, more=st.integers(1, 3))
def test_no_search_pressure_on_wrong(name, rows, before, more):
    wrong = rows[0] | {"correct": False}
    first, second = (fresh(name, before)(group_of([row, *rows[1:]]))[0] for row in (wrong, searched_more(wrong, more)))
    np.testing.assert_equal(first, second)


def searched_more(row, more):
    """The same rollout with needless searches on top."""
    extra = random_search(np.random.default_rng(1), more) | {"over_searches": more}
    return row | {name: row[name] + value for name, value in extra.items()} | {"search_enabled": True}


@pytest.mark.parametrize("name", [name for name in NAMES if REWARDS[name].stateful])
@settings(max_examples=25, deadline=None)
@given(batches=st.lists(GROUPS, min_size=1, max_size=4), last=GROUPS)
def test_memory_survives_json(name, batches, last):
    scorer = fresh(name, *batches)
    copy = fresh(name)
    copy.load_state_dict(json.loads(json.dumps(scorer.state_dict())))
    np.testing.assert_array_equal(copy(last), scorer(last))
    assert copy.state_dict() == scorer.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_docstring_has_every_section_and_unit(name):
    documentation = REWARDS[name].documentation
    assert documentation.missing == []
    for parameter in REWARDS[name].parameters:
        assert documentation.arguments[parameter].unit, f"{parameter} has no [unit] in Args"


MODULES = [info.name for info in pkgutil.walk_packages(laconic.rewards.__path__, "laconic.rewards.")]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS).failed == 0


def test_every_reward_has_an_example():
    finder = doctest.DocTestFinder(recurse=False)
    lacking = [name for name in NAMES if not finder.find(REWARDS[name].function, globs={})[0].examples]
    assert lacking == []
