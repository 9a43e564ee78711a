"""Made-up names out of a bounded stock of made-up words.

With `first` and `last` words, ``len(first) * len(last)`` two-word names exist. No word is both a first and a last one,
so that a name turned round is never the name of somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil, sqrt
from random import Random

from laconic.rewards.errors import RecipeError

_SYLLABLES = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
_TRIES = 50


class Namer:
    """Gives out names, none twice.

    Args:
        rng: Where the choices come from.
        names: How many will be needed. [names]
        spare: Two-word names that exist for each one needed. [names per name]
        single: How many one-word names will be needed besides. [names]
        taken: Words that mean something already.

    Raises:
        RecipeError: more names than words of two syllables can make.
    """

    def __init__(self, rng: Random, names: int, *, spare: float, single: int, taken: frozenset[str]) -> None:
        stock = [word for word in map("".join, product(_SYLLABLES, repeat=2)) if word not in taken]
        rng.shuffle(stock)
        half = ceil(sqrt(spare * names))
        if (wanted := 2 * half + single) > len(stock):
            message = f"world: {names} names, {spare:g} times as many possible, take {wanted} words of {len(stock)}"
            raise RecipeError(message, cure="make size, distractors or spare_names smaller")
        self.first, self.last, self._single = stock[:half], stock[half : 2 * half], iter(stock[2 * half :][:single])
        self._rng = rng
        self._given: set[str] = set()

    def name(self) -> str:
        """A new two-word name."""
        return self._new((self._rng.choice(self.first), self._rng.choice(self.last)) for _ in iter(int, 1))

    def word(self) -> str:
        """A new one-word name."""
        return next(self._single)

    def like(self, name: str) -> str:
        """A new two-word name that shares a word with this one; any new one where those seem to be given out."""
        first, last = name.split()
        tries = (
            (first, self._rng.choice(self.last)) if self._rng.random() < 0.5 else (self._rng.choice(self.first), last)
            for _ in range(_TRIES)
        )
        pair = next((pair for pair in tries if " ".join(pair) not in self._given), None)
        return self.name() if pair is None else self._new(iter([pair]))

    def _new(self, pairs: Iterator[tuple[str, str]]) -> str:
        name = next(name for name in map(" ".join, pairs) if name not in self._given)
        self._given.add(name)
        return name
