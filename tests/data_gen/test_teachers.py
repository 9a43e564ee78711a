from itertools import islice, pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.data_gen.families import FAMILIES
from laconic.data_gen.teachers import STYLES, TEACHERS, check_trace, teach
from laconic.rewards.answers import verify
from laconic.rewards.errors import RecipeError
from laconic.rewards.records import Problem

VARIED = {
    "chain_sum": {"max_terms": 10, "max_digits": 2},
    "gcd": {"max_numbers": 4, "max_value": 999},
    "lcm": {"max_numbers": 3, "max_value": 99},
    "base_conversion": {"max_base": 36, "max_value": 999},
    "number_sorting": {"min_numbers": 2, "max_numbers": 9, "min_value": -50},
    "count_bits": {"max_n": 999_999},
    "prime_factorization": {"max_value": 9999},
    "shortest_path": {"min_rows": 2, "max_rows": 6, "min_cols": 2, "p_blocked": 0.4},
    "countdown": {"min_numbers": 2, "max_numbers": 6, "max_value": 99, "max_target": 999},
}


def one(name, seed, options=None):
    return next(FAMILIES[name].generate(seed, options))


def sample(name, count, seed=0):
    return list(islice(FAMILIES[name].generate(seed), count))


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    style=st.sampled_from(STYLES),
    redundancy=st.floats(0, 5),
    varied=st.booleans(),
)
def test_every_step_can_be_derived_the_answer_is_right_and_all_words_are_known(name, seed, style, redundancy, varied):
    options = VARIED[name] if varied else None
    problem = one(name, seed, options)
    trace = teach(problem, style, redundancy=redundancy, rng=Random(seed))
    check_trace(problem, trace)
    assert verify(trace.rpartition("</think>")[2], problem)
    unknown = {*problem.prompt.split(), *trace.split()} - FAMILIES[name].symbols(options)
    assert not unknown
    assert trace == " ".join(trace.split())


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_without_redundancy_overthinking_is_the_medium_trace(name, seed):
    problem = one(name, seed)
    rng = Random(seed)
    assert teach(problem, "overthink", redundancy=0.0, rng=rng) == teach(problem, "medium", rng=rng)


@pytest.mark.parametrize("name", FAMILIES)
def test_length_grows_with_redundancy_and_style(name):
    problems = sample(name, 200)

    def mean(style, redundancy=1.0):
        return fmean(len(teach(p, style, redundancy=redundancy, rng=Random(p.id)).split()) for p in problems)

    ladder = [mean("overthink", redundancy) for redundancy in (0, 0.5, 1, 2, 4)]
    assert all(longer > 1.15 * shorter for shorter, longer in pairwise(ladder))
    direct, short, medium, long = (mean(style) for style in ("direct", "short", "medium", "long"))
    assert direct <= short < medium < long
    assert (direct == short) == (name == "number_sorting")


def test_overthinking_sums_cost_about_three_times_the_medium_trace():
    problems = sample("chain_sum", 3000)
    medium, overthought = (
        fmean(len(teach(p, style, rng=Random(p.id)).split()) for p in problems) for style in ("medium", "overthink")
    )
    assert 2.5 < overthought / medium < 3.5


def test_all_kinds_of_redundancy_occur_as_often_as_expected():
    # A two-term sum has one step, so a trace writes it once per attempt: E = 1 + restarts.
    problem = Problem("x", "3 + 4 =", "7", "chain_sum", meta={"numbers": [3, 4], "operators": ["+"]})
    traces = [teach(problem, "overthink", redundancy=1.0, rng=Random(i)).split() for i in range(4000)]
    # Standard errors below 0.015.
    assert fmean(t.count("again") for t in traces) == pytest.approx(0.5, abs=0.05)
    assert fmean(t.count("wait") for t in traces) == pytest.approx(0.7 * 1.5, abs=0.05)
    assert fmean(t.count("maybe") for t in traces) == pytest.approx(0.1 * 1.5, abs=0.05)
    assert len({" ".join(t) for t in traces}) > 30


def problem_of(prompt, answer, task, **meta):
    return Problem("golden", prompt, answer, task, meta=meta)


SUM = problem_of("7 - 3 + 12 =", "16", "chain_sum", numbers=[7, 3, 12], operators=["-", "+"])
GCD = problem_of("gcd 18 48 =", "6", "gcd", numbers=[18, 48])
LCM = problem_of("lcm 4 6 =", "12", "lcm", numbers=[4, 6])
BASE = problem_of("base 2 to 7 : 1 0 1 1 =", "1 4", "base_conversion", value=11, source=2, target=7)
SORT = problem_of("sort up 9 3 5 =", "3 5 9", "number_sorting", numbers=[9, 3, 5], direction="up")
BITS = problem_of("bits 1 3 =", "3", "count_bits", number=13)
FACTOR = problem_of("factor 8 5 =", "5 * 1 7", "prime_factorization", number=85, factors=[5, 17])
PATH = problem_of(
    "path a1 to b3 open a2 b1 b2 =", "right down right", "shortest_path", start="a1", goal="b3", open=["a2", "b1", "b2"]
)
WALL = problem_of("path a1 to a4 open a2 =", "infeasible", "shortest_path", start="a1", goal="a4", open=["a2"])
MAKE = problem_of(
    "make 29 from 3 7 8 =",
    "3 * 7 + 8",
    "countdown",
    numbers=[3, 7, 8],
    target=29,
    steps=[[3, "*", 7, 21], [21, "+", 8, 29]],
)


@pytest.mark.parametrize(
    ("problem", "style", "thought"),
    [
        (SUM, "direct", ""),
        (SUM, "short", "4"),
        (SUM, "medium", "7 - 3 = 4 ; 4 + 12 = 16"),
        (SUM, "long", "7 - 3 = 4 so 4 + 12 ; 4 + 12 = 16 so 16"),
        (GCD, "short", "12 6 0"),
        (GCD, "medium", "48 mod 18 = 12 ; 18 mod 12 = 6 ; 12 mod 6 = 0"),
        (GCD, "long", "48 = 2 * 18 + 12 ; 18 = 1 * 12 + 6 ; 12 = 2 * 6 + 0"),
        (LCM, "short", "2 2"),
        (LCM, "medium", "6 mod 4 = 2 ; 4 mod 2 = 0 ; 4 / 2 = 2 ; 2 * 6 = 12"),
        (LCM, "long", "6 = 1 * 4 + 2 ; 4 = 2 * 2 + 0 ; 4 / 2 = 2 ; 2 * 6 = 12"),
        (BASE, "short", "11"),
        (BASE, "medium", "1 * 2 + 0 = 2 ; 2 * 2 + 1 = 5 ; 5 * 2 + 1 = 11 ; 11 mod 7 = 4 ; 1 mod 7 = 1"),
        (
            BASE,
            "long",
            "0 * 2 + 1 = 1 ; 1 * 2 + 0 = 2 ; 2 * 2 + 1 = 5 ; 5 * 2 + 1 = 11 ; 11 = 1 * 7 + 4 ; 1 = 0 * 7 + 1",
        ),
        (SORT, "short", ""),
        (SORT, "medium", "min 9 3 5 = 3 ; min 9 5 = 5"),
        (SORT, "long", "min 9 3 = 3 ; min 3 5 = 3 ; min 9 5 = 5"),
        (BITS, "short", "1 1 0 1"),
        (BITS, "medium", "1 3 bit 1 ; 6 bit 0 ; 3 bit 1 ; 1 bit 1"),
        (
            BITS,
            "long",
            "1 3 half 6 bit 1 sum 1 ; 6 half 3 bit 0 sum 1 ; 3 half 1 bit 1 sum 2 ; 1 half 0 bit 1 sum 3",
        ),
        (FACTOR, "short", "1 7"),
        (FACTOR, "medium", "8 5 = 5 * 1 7 ; 1 7 = 1 7 * 1"),
        (FACTOR, "long", "8 5 mod 2 = 1 ; 8 5 mod 3 = 1 ; 8 5 = 5 * 1 7 ; 1 7 = 1 7 * 1"),
        (PATH, "short", "a2 b2 b3"),
        (PATH, "medium", "a1 right a2 = 1 ; a2 down b2 = 2 ; b2 right b3 = 3"),
        (PATH, "long", "a1 to a2 = 1 ; a1 to b1 = 1 ; a2 to b2 = 2 ; b2 to b3 = 3 ; back b3 b2 a2 a1"),
        (WALL, "short", ""),
        (WALL, "medium", "reach a1 a2 = 2"),
        (WALL, "long", "a1 to a2 = 1 ; stuck"),
        (MAKE, "short", "21"),
        (MAKE, "medium", "3 * 7 = 21 ; 21 + 8 = 29"),
    ],
)
def test_traces_are_written_as_documented(problem, style, thought):
    expected = " ".join(["<think>", *thought.split(), "</think>", problem.answer])
    assert teach(problem, style, rng=Random(0)) == expected
    check_trace(problem, expected)


def test_long_countdown_traces_tell_the_attempts_that_missed():
    traces = [teach(MAKE, "long", rng=Random(i)) for i in range(60)]
    misses = [trace.count("!= 29") for trace in traces]
    assert set(misses) <= {0, 1, 2, 3}
    assert fmean(misses) > 1
    assert all(trace.endswith("; 3 * 7 = 21 ; 21 + 8 = 29 </think> 3 * 7 + 8") for trace in traces if "!=" in trace)


def test_every_family_has_a_teacher():
    assert set(TEACHERS) == set(FAMILIES)


@pytest.mark.parametrize(
    ("task", "style", "redundancy", "says"),
    [
        ("math", "medium", 1.0, "none for the task 'math'"),
        ("chain_sum", "verbose", 1.0, "unknown style 'verbose'"),
        ("chain_sum", "overthink", -0.5, "-0.5 is not a number from 0 up"),
        ("chain_sum", "overthink", float("nan"), "nan is not a number from 0 up"),
    ],
)
def test_what_cannot_be_taught_is_refused(task, style, redundancy, says):
    with pytest.raises(RecipeError, match=says):
        teach(problem_of(SUM.prompt, "16", task, **SUM.meta), style, redundancy=redundancy, rng=Random(0))
