import re
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from laconic.data_gen.families import FAMILIES
from laconic.data_gen.teachers import STYLES, check_trace, teach
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem

SUM = Problem("x", "3 + 4 - 9 =", "-2", "chain_sum", meta={"numbers": [3, 4, 9], "operators": ["+", "-"]})


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    style=st.sampled_from(STYLES),
    place=st.floats(0, 1, exclude_max=True),
    other=st.integers(-20, 120) | st.integers(-3, 3),
    nudge=st.booleans(),
)
def test_a_changed_number_is_caught(name, seed, style, place, other, nudge):
    problem = next(FAMILIES[name].generate(seed))
    words = teach(problem, style, rng=Random(seed)).split()
    numbers = [i for i, word in enumerate(words) if re.fullmatch(r"-?\d+", word)]
    assume(numbers)
    spot = numbers[int(place * len(numbers))]
    changed = str(int(words[spot]) + other if nudge else other)
    assume(changed != words[spot])
    with pytest.raises(DataError):
        check_trace(problem, " ".join([*words[:spot], changed, *words[spot + 1 :]]))


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), place=st.floats(0, 1, exclude_max=True), repeat=st.booleans())
def test_a_missing_or_repeated_step_is_caught(name, seed, place, repeat):
    problem = next(FAMILIES[name].generate(seed))
    thought, _, answer = teach(problem, "medium", rng=Random(0)).removeprefix("<think> ").partition(" </think> ")
    steps = thought.split(" ; ")
    spot = int(place * len(steps))
    # A trace whose only step is gone is a direct one, which is legal.
    assume(len(steps) > 1 or repeat)
    wrong = [*steps[:spot], *([steps[spot]] * 2 if repeat else []), *steps[spot + 1 :]]
    with pytest.raises(DataError):
        check_trace(problem, f"<think> {' ; '.join(wrong)} </think> {answer}")


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_another_problems_trace_is_caught(name, seed):
    stream = FAMILIES[name].generate(seed)
    problem, other = next(stream), next(stream)
    trace = teach(other, "medium", rng=Random(0))
    assume(problem.prompt != other.prompt)
    with pytest.raises(DataError):
        check_trace(problem, trace)


@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ("<think> 3 + 4 = 8 ; 8 - 9 = -1 </think> -1", "step 1, '3 + 4 = 8': the sum is 7"),
        ("<think> 3 + 4 = 7 ; 3 - 9 = -6 </think> -2", "step 2, '3 - 9 = -6': the sum so far is 7"),
        ("<think> 3 - 9 = -6 ; -6 + 4 = -2 </think> -2", "step 1, '3 - 9 = -6': '+ 4' comes next"),
        ("<think> 3 + 4 = 7 ; 7 - 9 = -2 ; wait check 3 + 4 = 7 ok </think> -2", "not the step before"),
        ("<think> wait check 3 + 4 = 7 ok ; 3 + 4 = 7 ; 7 - 9 = -2 </think> -2", "not the step before"),
        ("<think> maybe 3 + 4 = 7 off 0 drop ; 3 + 4 = 7 ; 7 - 9 = -2 </think> -2", "should not be dropped"),
        ("<think> maybe 3 + 4 = 9 off 1 drop ; 3 + 4 = 7 ; 7 - 9 = -2 </think> -2", "the sum is 7"),
        ("<think> maybe 3 + 4 = 9 off 2 ; 3 + 4 = 7 ; 7 - 9 = -2 </think> -2", "step 1"),
        ("<think> again ; 3 + 4 = 7 ; 7 - 9 = -2 </think> -2", "nothing to begin again"),
        ("<think> 3 + 4 = 7 ; again ; 7 - 9 = -2 </think> -2", "step 3, '7 - 9 = -2': the sum so far is 3"),
        ("<think> 3 + 4 = 7 ; 7 - 9 = -2 ; again ; 3 + 4 = 7 </think> -2", "'- 9' is left to add"),
        ("<think> 3 + 4 = 7 ; ; 7 - 9 = -2 </think> -2", "step 2, '': an empty step"),
        ("<think> 3 + 4 = 07 ; 7 - 9 = -2 </think> -2", "'07' is not a whole number"),
        ("<think> 3 + 4 = 7 so 7 + 9 ; 7 - 9 = -2 </think> -2", "'- 9' is left"),
        ("<think> 7 </think> 2", "the answer '2' is wrong"),
        ("<think> </think> 2", "the answer '2' is wrong"),
        ("<think> 3 + 4 = 7 ; 7 - 9 = -2 -2", "'</think>' is missing"),
        ("3 + 4 = 7 </think> -2", "'<think>' is missing"),
        ("hm <think> </think> -2", "text before <think>"),
    ],
)
def test_the_first_step_that_does_not_follow_is_named(trace, says):
    with pytest.raises(DataError, match=re.escape(says)):
        check_trace(SUM, trace)


def test_redundancy_that_is_true_is_accepted():
    check_trace(
        SUM,
        "<think> maybe 3 + 4 = 9 off 2 drop ; 3 + 4 = 7 ; wait check 3 + 4 = 7 ok ; again ; 3 + 4 = 7 ; 7 - 9 = -2 ; "
        "wait check 7 - 9 = -2 ok ; wait check 7 - 9 = -2 ok </think> -2",
    )


FACTOR = Problem("x", "factor 8 4 =", "2 * 2 * 3 * 7", "prime_factorization", meta={"number": 84})
PATH = Problem("x", "path a1 to b2 open a2 b1 =", "right down", "shortest_path", meta={})
WALL = Problem("x", "path a1 to a4 open a2 =", "infeasible", "shortest_path", meta={})
MAKE = Problem("x", "make 29 from 3 7 8 =", "3 * 7 + 8", "countdown", meta={})


@pytest.mark.parametrize(
    ("problem", "trace", "says"),
    [
        (FACTOR, "8 4 = 4 * 2 1 ; 2 1 = 3 * 7 ; 7 = 7 * 1 </think> 2 * 2 * 3 * 7", "not a prime factor"),
        (FACTOR, "8 4 = 3 * 2 8 </think> 2 * 2 * 3 * 7", "not the smallest prime factor"),
        (FACTOR, "4 2 , 2 1 , 7 </think> 4 * 3 * 7", "is wrong"),
        (PATH, "a1 right a2 = 1 ; a2 down b2 = 2 </think> down right", "not the moves of the path"),
        (PATH, "a1 to b2 = 1 ; back b2 a1 </think> right down", "cannot be entered"),
        (PATH, "a1 to a2 = 1 ; stuck </think> right down", "there is more to search"),
        (PATH, "a1 to a2 = 1 ; back b2 a2 a1 </think> right down", "a cell was not found"),
        (WALL, "stuck </think> infeasible", "there is more to search"),
        (WALL, "reach a1 = 1 </think> infeasible", "not the cells in reach"),
        (MAKE, "3 * 7 = 21 ; 21 + 8 = 29 </think> 7 * 3 + 8", "not the operations"),
        (MAKE, "24 </think> 3 * 7 + 8", "not the values"),
        (MAKE, "3 * 7 = 21 ; 3 + 8 = 11 </think> 3 * 7 + 8", "not both left"),
        (MAKE, "3 * 7 = 21 ; 21 + 8 = 29 ; 29 != 29 </think> 3 * 7 + 8", "the target is 29"),
        (MAKE, "3 + 7 = 10 ; 10 != 29 </think> 3 * 7 + 8", "not finished"),
    ],
)
def test_steps_that_are_true_but_do_not_follow_are_caught(problem, trace, says):
    with pytest.raises(DataError, match=says):
        check_trace(problem, f"<think> {trace}")
