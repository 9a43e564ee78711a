from collections import Counter

import pytest

from laconic.data_gen.families import FAMILIES
from laconic.data_gen.split import TEST_SHARE, draw, side
from laconic.rewards.errors import DataError
from laconic.rewards.procedural import cell_place

CROWDED = {
    "chain_sum": {"max_terms": 3},
    "gcd": {"max_value": 40},
    "lcm": {"max_value": 40},
    "base_conversion": {"max_base": 4, "max_value": 200},
    "number_sorting": {"max_numbers": 3, "max_value": 12},
    "count_bits": {"max_n": 900},
    "prime_factorization": {"max_value": 900},
    "shortest_path": {"min_rows": 2, "max_rows": 3, "min_cols": 2, "max_cols": 3},
    "countdown": {"max_numbers": 3, "max_value": 12, "max_target": 30},
}
"""Options with so few problems that twins are common."""


def question(problem):
    """What is asked, in a form that twins share; written apart from `Family.canonical`."""
    meta = problem.meta
    match problem.task:
        case "chain_sum":
            words = problem.prompt.removesuffix(" =").replace("- ", "-").replace("+ ", "").split()
            return frozenset(Counter(map(int, words)).items())
        case "gcd" | "lcm":
            return frozenset(Counter(problem.prompt.split()[1:-1]).items())
        case "number_sorting":
            return meta["direction"], frozenset(Counter(problem.prompt.split()[2:-1]).items())
        case "base_conversion":
            return meta["value"], frozenset((meta["source"], meta["target"]))
        case "countdown":
            return meta["target"], frozenset(Counter(meta["numbers"]).items())
        case "shortest_path":
            return grid_class(problem)
        case _:
            return problem.prompt


def grid_class(problem):
    """Pairwise squared distances between cells tell a figure up to its symmetries and shifts, with the ends' roles."""
    ends = {problem.meta["start"], problem.meta["goal"]}
    cells = [(cell_place(name), name in ends) for name in (*ends, *problem.meta["open"])]
    profile = [
        (is_end, tuple(sorted(((r - s) ** 2 + (c - d) ** 2, other) for (s, d), other in cells)))
        for (r, c), is_end in cells
    ]
    return tuple(sorted(profile))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_question_of_the_test_split_is_asked_in_training(name):
    family, options = FAMILIES[name], CROWDED[name]
    train = draw(family, "train", 150, seed=0, options=options)
    test = draw(family, "test", 30, seed=9, options=options)
    assert not {question(p) for p in train} & {question(p) for p in test}
    assert len({p.prompt for p in train}) == 150
    assert len({family.canonical(p) for p in test}) == 30


def test_the_naive_split_would_have_leaked():
    # Without a split by canonical input most problems have their twin on the other side, so the test above can fail.
    stream = FAMILIES["gcd"].generate(0, CROWDED["gcd"])
    problems = list({p.prompt: p for p, _ in zip(stream, range(1500), strict=False)}.values())
    train, test = problems[:-100], problems[-100:]
    assert sum(question(p) in {question(q) for q in train} for p in test) > 20


def test_an_exhausted_family_says_how_many_problems_there_are():
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6)]
    tests = {(a, b) for a, b in pairs if a <= b and side(f"gcd:{[a, b]}") == "test"}
    trained = [(a, b) for a, b in pairs if (min(a, b), max(a, b)) not in tests]
    assert tests
    options = {"max_value": 5}
    drawn = draw(FAMILIES["gcd"], "test", len(tests), seed=1, options=options)
    assert {tuple(sorted(p.meta["numbers"])) for p in drawn} == tests
    with pytest.raises(DataError, match=f"only about {len(tests)} different ones exist on the test side"):
        draw(FAMILIES["gcd"], "test", len(tests) + 1, seed=1, options=options)
    with pytest.raises(DataError, match=f"ask for at most {len(trained)} train problems"):
        draw(FAMILIES["gcd"], "train", 26, seed=1, options=options)


def test_drawing_more_keeps_what_was_drawn():
    few = draw(FAMILIES["chain_sum"], "test", 10, seed=4)
    assert draw(FAMILIES["chain_sum"], "test", 30, seed=4)[:10] == few
    assert draw(FAMILIES["chain_sum"], "test", 10, seed=5) != few


def test_the_test_side_has_its_share_and_grows_with_it():
    keys = [f"gcd:{[a, b]}" for a in range(100) for b in range(a, 100)]
    sides = [side(key) for key in keys]
    # 5050 draws of probability 0.2: the standard error is 0.0056.
    assert abs(sides.count("test") / len(keys) - TEST_SHARE) < 4 * 0.0056
    assert all(side(key, 0.5) == "test" for key, where in zip(keys, sides, strict=True) if where == "test")
    assert {side(key, 0.0) for key in keys} == {"train"}
    assert {side(key, 1.0) for key in keys} == {"test"}
