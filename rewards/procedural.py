"""Verifiers for tasks whose answer is not unique; all others are compared word by word.

Each is exact: no partial credit, and text that cannot be read is wrong, never an error.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

from laconic.rewards.records import Problem
from laconic.rewards.short_answers import verify_qa, verify_world_qa

Cell = tuple[int, int]

MOVES: dict[str, Cell] = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
"""What a move adds to (row, column)."""

LONGEST_EXPRESSION = 200
"""Words; longer ones are wrong unread, so that nested parentheses cannot exhaust the stack. (Numbers: 18 digits.)"""


class ExpressionError(ValueError):
    """An arithmetic expression cannot be read or has no value."""


@dataclass(slots=True)
class Expression:
    """An arithmetic expression, read and evaluated from left to right with the usual binding."""

    value: Fraction
    numbers: list[int] = field(default_factory=list)
    """The numbers it is made of, in the order of writing."""
    steps: list[tuple[Fraction, str, Fraction, Fraction]] = field(default_factory=list)
    """The operations (a, operator, b, result) in the order of evaluation."""


def parse_expression(text: str) -> Expression:
    """Read whole non-negative numbers, ``+ - * /`` and parentheses.

    >>> parse_expression("( 1 + 2 ) * 3").value
    Fraction(9, 1)

    Raises:
        ExpressionError: anything else occurs, a part is missing, a divisor is zero, or the text is absurdly long.
    """
    words = re.findall(r"[0-9]+|[^\s0-9]", text)
    if len(words) > LONGEST_EXPRESSION:
        raise ExpressionError("too long")
    return _Parser(words).parse()


class _Parser:
    """Recursive descent over `sum -> product -> atom`."""

    def __init__(self, words: list[str]) -> None:
        self.words = deque(words)
        self.found = Expression(Fraction(0))

    def parse(self) -> Expression:
        self.found.value = self._sum()
        if self.words:
            raise ExpressionError(f"{self.words[0]!r} does not continue an expression")
        return self.found

    def _sum(self) -> Fraction:
        return self._chain(self._product, "+-")

    def _product(self) -> Fraction:
        return self._chain(self._atom, "*/")

    def _chain(self, operand: Callable[[], Fraction], operators: str) -> Fraction:
        total = operand()
        while self.words and self.words[0] in operators:
            operator = self.words.popleft()
            right = operand()
            result = _apply(total, operator, right)
            self.found.steps.append((total, operator, right, result))
            total = result
        return total

    def _atom(self) -> Fraction:
        word = self.words.popleft() if self.words else ""
        if re.fullmatch(r"[0-9]{1,18}", word):
            self.found.numbers.append(int(word))
            return Fraction(int(word))
        if word != "(":
            raise ExpressionError(f"{word!r} where a number should be")
        inner = self._sum()
        if not self.words or self.words.popleft() != ")":
            raise ExpressionError("a parenthesis is not closed")
        return inner


def _apply(a: Fraction, operator: str, b: Fraction) -> Fraction:
    if operator == "/":
        if b == 0:
            raise ExpressionError("division by zero")
        return a / b
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def makes(answer: str, numbers: Collection[int], target: int) -> bool:
    """Whether an expression uses every number exactly once and its exact value is the target.

    reasoning-gym's prompts partly say "at most once", its scorer demands all of them; so do we.
    """
    try:
        found = parse_expression(answer)
    except ExpressionError:
        return False
    return sorted(found.numbers) == sorted(numbers) and found.value == target


def verify_countdown(answer: str, problem: Problem) -> bool:
    """See `makes`."""
    return makes(answer, problem.meta["numbers"], problem.meta["target"])


def verify_prime_factorization(answer: str, problem: Problem) -> bool:
    """Whether the answer is the number's primes, in any order, joined by ``*``.

    The digits of one factor may be spelled apart: ``2 * 4 3 1`` and ``431 * 2`` are equal.
    """
    parts = ["".join(part.split()) for part in answer.split("*")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,8}", part) for part in parts):
        return False
    factors = [int(part) for part in parts]
    return prod(factors) == problem.meta["number"] and all(is_prime(factor) for factor in factors)


def is_prime(number: int) -> bool:
    """Whether a number is prime, by trial division."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def cell_name(cell: Cell) -> str:
    """`(1, 2)` -> `b3`: the row's letter, the column's number."""
    return f"{chr(ord('a') + cell[0])}{cell[1] + 1}"


def cell_place(name: str) -> Cell:
    """`b3` -> `(1, 2)`."""
    return ord(name[0]) - ord("a"), int(name[1:]) - 1


def distances(goal: Cell, open_cells: Collection[Cell]) -> dict[Cell, int]:
    """Fewest moves to the goal from every cell it can be reached from, by breadth-first search."""
    known, queue = {goal: 0}, deque([goal])
    while queue:
        row, column = here = queue.popleft()
        for down, right in MOVES.values():
            there = (row + down, column + right)
            if there in open_cells and there not in known:
                known[there] = known[here] + 1
                queue.append(there)
    return known


def is_shortest_path(answer: str, start: str, goal: str, between: Collection[str]) -> bool:
    """Whether moves lead from start to goal over open cells, and none are fewer; ``infeasible`` where none do."""
    cells = {cell_place(name) for name in (start, goal, *between)}
    away = distances(cell_place(goal), cells)
    here, moves = cell_place(start), answer.split()
    if here not in away:
        return moves == ["infeasible"]
    if len(moves) != away[here]:
        return False
    # Every move of a shortest path comes one nearer to the goal.
    for left, move in zip(reversed(range(len(moves))), moves, strict=True):
        down, right = MOVES.get(move, (0, 0))
        here = (here[0] + down, here[1] + right)
        if away.get(here) != left:
            return False
    return True


def verify_shortest_path(answer: str, problem: Problem) -> bool:
    """See `is_shortest_path`."""
    return is_shortest_path(answer, problem.meta["start"], problem.meta["goal"], problem.meta["open"])


VERIFIERS: dict[str, Callable[[str, Problem], bool]] = {
    "countdown": verify_countdown,
    "prime_factorization": verify_prime_factorization,
    "qa": verify_qa,
    "shortest_path": verify_shortest_path,
    "world_qa": verify_world_qa,
}
"""By task."""
