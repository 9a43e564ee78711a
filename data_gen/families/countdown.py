"""Countdown: combine all given numbers into a target.

reasoning-gym draws about a hundred of these per second, through sympy. Here an expression is built forwards from random
numbers and its value is the target, so every problem is solvable and drawing is fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from laconic.data_gen.families.base import Draw, Family, Option
from laconic.data_gen.symbols import LARGEST, SLIP, numbers
from laconic.rewards.errors import RecipeError
from laconic.rewards.records import Problem

PATIENCE = 20_000
"""Expressions in a row outside the wanted targets after which the options are called impossible."""

_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}

Node = int | tuple[int, str, "Node", "Node"]
"""An expression: a number, or (value, operator, left, right)."""


class Countdown(Family):
    """`make 29 from 3 7 8 =` -> `3 * 7 + 8`: every number exactly once, intermediate values positive and whole.

    The verifier accepts any expression that uses every number exactly once and has the target as its exact value.
    """

    name = "countdown"
    summary = "combine all numbers into the target: make 29 from 3 7 8 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_numbers": Option(3, 2, 6, "fewest numbers"),
        "max_numbers": Option(4, 2, 6, "most numbers"),
        "min_value": Option(1, 1, 99, "smallest number"),
        "max_value": Option(20, 1, 99, "largest number"),
        "min_target": Option(5, 1, LARGEST, "smallest target"),
        "max_target": Option(99, 1, LARGEST, "largest target"),
    }

    def draws(self, seed: int, options: dict[str, int | float]) -> Iterator[Draw]:
        """See `Family.draws`; meta holds `numbers`, `target` and the solution's `steps` [a, operator, b, value]."""
        rng, misses = Random(seed), 0
        while misses < PATIENCE:
            count = rng.randint(int(options["min_numbers"]), int(options["max_numbers"]))
            given = [rng.randint(int(options["min_value"]), int(options["max_value"])) for _ in range(count)]
            tree = random_tree(given, rng)
            misses += 1
            if options["min_target"] <= value(tree) <= options["max_target"]:
                misses = 0
                yield _draw(given, tree)
        raise RecipeError(
            f"problems.options.countdown: {PATIENCE} expressions in a row missed the targets "
            f"{options['min_target']} to {options['max_target']}",
            cure="widen the targets or the values",
        )

    def canonical(self, problem: Problem) -> str:
        """The sorted numbers and the target."""
        return f"countdown:{sorted(problem.meta['numbers'])}->{problem.meta['target']}"

    def difficulty(self, problem: Problem) -> float:
        """How many numbers; the search space grows with its factorial."""
        return len(problem.meta["numbers"])

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        return numbers(1 - SLIP, LARGEST) | {"make", "from", "+", "-", "*", "/", "(", ")", "!="}


def _draw(given: list[int], tree: Node) -> Draw:
    meta = {"numbers": given, "target": value(tree), "steps": [list(step) for step in steps(tree)]}
    return Draw(f"make {value(tree)} from {' '.join(map(str, given))} =", expression(tree), meta)


def random_tree(given: list[int], rng: Random) -> Node:
    """Combine the numbers in random order by random legal operations into one expression."""
    pool: list[Node] = list(given)
    while len(pool) > 1:
        left, right = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        if not operations(value(left), value(right)):
            left, right = right, left  # too large to add: then the larger minus the smaller, or equals divided
        operator, result = rng.choice(operations(value(left), value(right)))
        pool.append((result, operator, left, right))
    return pool[0]


def operations(a: int, b: int) -> list[tuple[str, int]]:
    """What can be done with `a` and `b` in this order so that the result is positive, whole and a word.

    Multiplying and dividing by one, which change nothing, are left out.
    """
    found = []
    if a + b <= LARGEST:
        found.append(("+", a + b))
    if a > b:
        found.append(("-", a - b))
    if a > 1 and b > 1 and a * b <= LARGEST:
        found.append(("*", a * b))
    if b > 1 and a % b == 0:
        found.append(("/", a // b))
    return found


def value(node: Node) -> int:
    """The value of an expression."""
    return node if isinstance(node, int) else node[0]


def steps(node: Node) -> Iterator[tuple[int, str, int, int]]:
    """The operations (a, operator, b, value) in the order in which the written expression is evaluated."""
    if isinstance(node, int):
        return
    result, operator, left, right = node
    yield from steps(left)
    yield from steps(right)
    yield value(left), operator, value(right), result


def expression(node: Node) -> str:
    """The expression with as few parentheses as keep its structure under left-to-right evaluation."""
    if isinstance(node, int):
        return str(node)
    _, operator, left, right = node
    return f"{_side(left, _BINDING[operator])} {operator} {_side(right, _BINDING[operator] + 1)}"


def _side(node: Node, binding: int) -> str:
    bare = isinstance(node, int) or _BINDING[node[1]] >= binding
    return expression(node) if bare else f"( {expression(node)} )"
