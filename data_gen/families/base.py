"""What a procedural family is: an endless, reproducible stream of problems with a canonical form and a vocabulary."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from laconic.data_gen.symbols import SLIP, STRUCTURE, numbers
from laconic.rewards.errors import RecipeError
from laconic.rewards.records import Problem

Options = Mapping[str, int | float]


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a family; its type is the type of its default."""

    default: int | float
    low: int | float
    """Smallest legal value."""
    high: int | float
    """Largest legal value."""
    help: str


class Draw(NamedTuple):
    """One raw problem, before it gets an id and a difficulty."""

    prompt: str
    answer: str
    meta: dict[str, Any]


class Family(ABC):
    """A procedural family of problems.

    A subclass says what its options are, how problems are drawn, and when two problems are the same one.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line: what is asked, with a prompt as example."""
    declared: ClassVar[Mapping[str, Option]]

    @property
    def options(self) -> dict[str, int | float]:
        """Option names and their defaults."""
        return {name: option.default for name, option in self.declared.items()}

    def resolve(self, options: Options | None = None) -> dict[str, int | float]:
        """Fill in defaults and check every value.

        Raises:
            RecipeError: an option is unknown, of the wrong type or out of range, or a minimum exceeds its maximum.
        """
        given = dict(options or {})
        for key, value in given.items():
            self._check_value(key, value)
        resolved = {**self.options, **given}
        for key in resolved:
            if key.startswith("min_") and resolved[key] > resolved["max_" + key[4:]]:
                larger = "max_" + key[4:]
                raise self.error(key, f"{resolved[key]} exceeds {larger} ({resolved[larger]})", f"raise {larger} too")
        self.check(resolved)
        return resolved

    def check(self, options: Options) -> None:  # noqa: B027 - a hook that most families do not need
        """Refuse resolved options that are legal one by one but not together."""

    def generate(self, seed: int, options: Options | None = None) -> Iterator[Problem]:
        """An endless stream of problems; equal arguments give the equal stream in every process.

        Streams of different seeds are unrelated, also when the seeds are neighbours.

        Raises:
            RecipeError: see `resolve`; raised at once, not when the first problem is taken.
        """
        resolved = self.resolve(options)
        digest = hashlib.sha256(f"{self.name}/{seed}".encode()).digest()
        return map(self._problem, self.draws(int.from_bytes(digest[:7], "big"), resolved))

    @abstractmethod
    def draws(self, seed: int, options: dict[str, int | float]) -> Iterator[Draw]:
        """The endless stream behind `generate`, from resolved options."""

    @abstractmethod
    def canonical(self, problem: Problem) -> str:
        """A text, starting with the family's name, that is equal for two problems exactly if they ask the same."""

    @abstractmethod
    def difficulty(self, problem: Problem) -> float:
        """How much work the problem needs, in steps of the family's own method."""

    @abstractmethod
    def words(self, options: dict[str, int | float]) -> set[str]:
        """The words of prompts, traces and answers beyond `STRUCTURE` and the offsets of wrong guesses."""

    def symbols(self, options: Options | None = None) -> set[str]:
        """Every whitespace-separated word that prompts, traces of any style and answers can contain."""
        return STRUCTURE | numbers(-SLIP, SLIP) | self.words(self.resolve(options))

    def error(self, key: str, message: str, cure: str) -> RecipeError:
        """The error for a wrong option, named by its place in the recipe."""
        return RecipeError(f"problems.options.{self.name}.{key}: {message}", cure=cure)

    def _check_value(self, key: str, value: object) -> None:
        if key not in self.declared:
            legal = ", ".join(f"{name} (default {option.default})" for name, option in self.declared.items())
            raise self.error(key, "unknown option", f"the options of {self.name} are {legal}")
        option = self.declared[key]
        kinds = (int, float) if isinstance(option.default, float) else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise self.error(key, f"{value!r} is not {kinds[-1].__name__}", f"the default is {option.default}")
        if not option.low <= value <= option.high:
            cure = f"choose {option.low} to {option.high}; the default is {option.default}"
            raise self.error(key, f"{value} is out of range ({option.help})", cure)

    def _problem(self, draw: Draw) -> Problem:
        bare = Problem(id="", prompt=draw.prompt, answer=draw.answer, task=self.name, meta=draw.meta)
        # Twins share the first part of the id; the second keeps them apart as records.
        twin, prompt = _digest(self.canonical(bare)), _digest(draw.prompt)
        return replace(bare, id=f"{self.name}-{twin[:10]}-{prompt[:8]}", difficulty=float(self.difficulty(bare)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
