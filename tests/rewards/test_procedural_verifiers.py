from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards.procedural import (
    VERIFIERS,
    ExpressionError,
    cell_name,
    cell_place,
    is_shortest_path,
    makes,
    parse_expression,
)
from laconic.rewards.records import Problem

EXPRESSIONS = st.recursive(
    st.integers(0, 30).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join) | inner.map("( {} )".format),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS)
def test_expressions_have_the_value_that_python_gives_them(text):
    exact = " ".join(f"Fraction({word})" if word.isdigit() else word for word in text.split())
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ExpressionError):
            parse_expression(text)
        return
    found = parse_expression(text.replace(" ", ""))
    assert found.value == expected
    assert found.numbers == [int(word) for word in text.split() if word.isdigit()]
    assert len(found.steps) == len(found.numbers) - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "( 1",
        "1 )",
        "1 2",
        "* 1",
        "-1",
        "1 / 0",
        "1 / ( 2 - 2 )",
        "1 ** 2",
        "x",
        "1.5",
        "1 = 1",
        "²",
        "()",
        "9" * 5000,
    ],
)
def test_text_that_is_no_expression_is_refused(text):
    with pytest.raises(ExpressionError):
        parse_expression(text)


def test_endless_parentheses_are_wrong_not_a_crash():
    assert not makes("(" * 100_000, [1], 1)
    assert makes("(" * 99 + "1" + ")" * 99, [1], 1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("3 * 8 + 8 / 2", True),
        ("8*3+(8/2)", True),
        ("8 / 2 + 3 * 8", True),
        ("8 * ( 3 + 2 ) - 8", False),  # 32
        ("3 * 8 + 4", False),  # a number that was not given
        ("3 * 8 + 2 + 2", False),  # a number used twice
        ("28", False),
        ("3 * 8 + 8 / 2 = 28", False),
    ],
)
def test_countdown_uses_every_number_once(answer, right):
    problem = Problem("x", "", "", "countdown", meta={"numbers": [2, 3, 8, 8], "target": 28})
    assert VERIFIERS["countdown"](answer, problem) is right


def test_countdown_values_are_exact():
    assert makes("8 / ( 3 - 8 / 3 )", [3, 3, 8, 8], 24)
    assert not makes("1 / 3 * 3 + 1 / 1000000007", [1, 3, 3, 1, 1000000007], 1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("2 * 2 * 3 * 7", True),
        ("7 * 3 * 2 * 2", True),
        ("4 * 3 * 7", False),
        ("2 * 3 * 7", False),
        ("1 * 2 * 2 * 3 * 7", False),
        ("84", False),
        ("2 * 2 * 3 * 7 *", False),
        ("2 * 2 * 3 * x", False),
        ("-2 * -2 * 3 * 7", False),
        ("", False),
    ],
)
def test_prime_factors_may_come_in_any_order(answer, right):
    problem = Problem("x", "", "", "prime_factorization", meta={"number": 84})
    assert VERIFIERS["prime_factorization"](answer, problem) is right


def test_prime_factors_may_be_spelled():
    problem = Problem("x", "", "", "prime_factorization", meta={"number": 862})
    verify = VERIFIERS["prime_factorization"]
    assert verify("2 * 4 3 1", problem)
    assert verify("431 * 2", problem)
    assert not verify("2 4 * 3 1", problem)


STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def arrives(moves, start, goal, cells):
    here = start
    for move in moves:
        here = (here[0] + STEPS[move][0], here[1] + STEPS[move][1])
        if here not in cells:
            return False
    return here == goal


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(list(product(range(2), range(3)))), min_size=2), st.randoms(use_true_random=False))
def test_shortest_paths_are_exactly_the_shortest_of_all_walks(cells, rng):
    start, goal = rng.sample(sorted(cells), 2)
    walks = [moves for length in range(1, 6) for moves in product(STEPS, repeat=length)]
    arriving = [moves for moves in walks if arrives(moves, start, goal, cells)]
    shortest = min(map(len, arriving), default=0)
    best = {moves for moves in arriving if len(moves) == shortest}
    ends, between = (cell_name(start), cell_name(goal)), [cell_name(cell) for cell in cells - {start, goal}]
    accepted = {moves for moves in walks if is_shortest_path(" ".join(moves), *ends, between)}
    assert accepted == best
    assert is_shortest_path("infeasible", *ends, between) == (not best)


def test_words_that_are_no_moves_lead_nowhere():
    assert is_shortest_path("right right", "a1", "a3", ["a2"])
    for answer in ("", "right", "right right right", "right east", "infeasible", "a2 a3"):
        assert not is_shortest_path(answer, "a1", "a3", ["a2"])


def test_cells_are_named_by_row_letter_and_column_number():
    assert cell_name((1, 2)) == "b3"
    assert all(cell_place(cell_name(cell)) == cell for cell in product(range(9), range(9)))
