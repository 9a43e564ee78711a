"""Re-derives every step of a trace, redundant ones included."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from laconic.data_gen.checkers.base import Derivation, divide, integer, require
from laconic.data_gen.checkers.chain_sum import ChainSum
from laconic.data_gen.checkers.countdown import Countdown
from laconic.data_gen.checkers.divisors import Gcd, Lcm
from laconic.data_gen.checkers.number_sorting import NumberSorting
from laconic.data_gen.checkers.numerals import BaseConversion, CountBits
from laconic.data_gen.checkers.prime_factorization import PrimeFactorization
from laconic.data_gen.checkers.shortest_path import ShortestPath
from laconic.data_gen.symbols import SEPARATOR
from laconic.inference.trace import THINK_CLOSE, THINK_OPEN
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem

__all__ = ["DERIVATIONS", "check_so_far", "check_trace"]

DERIVATIONS: dict[str, type[Derivation]] = {
    "chain_sum": ChainSum,
    "gcd": Gcd,
    "lcm": Lcm,
    "base_conversion": BaseConversion,
    "number_sorting": NumberSorting,
    "count_bits": CountBits,
    "prime_factorization": PrimeFactorization,
    "shortest_path": ShortestPath,
    "countdown": Countdown,
}
"""By task."""


@dataclass(frozen=True)
class _Walk:
    """A derivation with what re-checks and restarts refer to."""

    origin: Derivation
    now: Derivation
    last: list[str] = field(default_factory=list)
    """The step made last since the beginning or the last restart."""

    def take(self, clause: list[str]) -> _Walk:
        """One clause further."""
        match clause:
            case ["again"]:
                require(self.last, "there is nothing to begin again")
                return _Walk(self.origin, self.origin)
            case ["wait", "check", *step, "ok"]:
                require(step == self.last, "not the step before")
                return self
            case ["maybe", *step, wrong, "off", offset, "drop"]:
                require(integer(offset) != 0, "a branch that is right should not be dropped")
                self.now.follow([*step, str(integer(wrong) - integer(offset))])
                return self
            case []:
                raise DataError("an empty step")
        return replace(self, now=self.now.follow(clause), last=clause)


def check_trace(problem: Problem, trace: str) -> None:
    """Check that every step of a teacher's trace is true and comes next, and that the steps lead to a right answer.

    Re-checks must repeat the step before; dead branches must be wrong by the offset they name, right when mended, and
    dropped. Values without operations (countdown's short style) are checked when the answer shows the operations.

    Raises:
        DataError: at the first step that does not follow, named by its number and text.
    """
    opened, rest = divide(trace.split(" "), THINK_OPEN)
    thought, answer = divide(rest, THINK_CLOSE)
    require(not opened, f"{problem.id}: text before {THINK_OPEN}")
    _conclude(problem, _follow(problem, _clauses(thought)), " ".join(answer), thought=bool(thought))


def check_so_far(problem: Problem, trace: str) -> None:
    """As `check_trace`, for a trace that may go on: what is complete of it must be true and come next.

    A step is complete at its separator or at the closing tag; what follows the last separator is not looked at. What
    follows the closing tag is taken for the whole answer. Without an opening tag, a text with a separator or a closing
    tag is a thinking that the prompt opened, and any other one is an answer without thinking. Blanks do not matter.

    Raises:
        DataError: at the first step that does not follow, or at a wrong answer.
    """
    words = trace.split()
    if not words or THINK_OPEN.startswith(words[0]):
        thinking, words = True, words[1:]
    else:
        thinking = SEPARATOR in words or THINK_CLOSE in words
    closed = THINK_CLOSE in words
    thought, answer = divide(words, THINK_CLOSE) if closed else (words, []) if thinking else ([], words)
    clauses = _clauses(thought)
    walk = _follow(problem, clauses if closed else clauses[:-1])
    if answer:
        _conclude(problem, walk, " ".join(answer), thought=bool(thought))


def _follow(problem: Problem, clauses: list[list[str]]) -> _Walk:
    require(problem.task in DERIVATIONS, f"{problem.id}: no checker for the task {problem.task!r}")
    start = DERIVATIONS[problem.task].start(problem.prompt)
    walk = _Walk(start, start)
    for number, clause in enumerate(clauses, start=1):
        try:
            walk = walk.take(clause)
        except DataError as error:
            raise DataError(f"{problem.id}: step {number}, {' '.join(clause)!r}: {error.message}") from None
    return walk


def _conclude(problem: Problem, walk: _Walk, answer: str, *, thought: bool) -> None:
    require(walk.origin.solves(answer), f"{problem.id}: the answer {answer!r} is wrong")
    if thought:
        walk.now.conclude(answer)


def _clauses(thought: list[str]) -> list[list[str]]:
    """The words between separators; no clause where nothing is thought."""
    clauses: list[list[str]] = [[]]
    for word in thought:
        if word == SEPARATOR:
            clauses.append([])
        else:
            clauses[-1].append(word)
    return clauses if thought else []
