"""Train and test problems that share no input, whatever the order of the operands.

The side of a problem is a function of its canonical input alone: `gcd 4 6` and `gcd 6 4` fall on the same one, and no
choice of seeds, sizes or options can move a test problem into training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

from laconic.data_gen.families import Family
from laconic.data_gen.families.base import Options
from laconic.rewards.errors import DataError
from laconic.rewards.records import Problem

Split = Literal["train", "test"]

TEST_SHARE = 0.2
"""Share of all canonical inputs that is kept for testing."""


def side(canonical: str, test_share: float = TEST_SHARE) -> Split:
    """Which split an input belongs to.

    Args:
        canonical: `Family.canonical` of the problem; it starts with the family's name.
        test_share: Share of inputs on the test side, 0 to 1. A larger share keeps what a smaller one had in test.
    """
    # A prefix keeps this hash independent of the one that problem ids are made of.
    digest = hashlib.sha256(f"side/{canonical}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def draw(
    family: Family,
    split: Split,
    n: int,
    *,
    seed: int,
    options: Options | None = None,
    test_share: float = TEST_SHARE,
) -> list[Problem]:
    """Draw `n` different problems of one split.

    Test problems differ in their canonical input, so that none counts twice; training problems differ in their prompt,
    so that both orders of a sum can be learned from.

    Args:
        family: Where the problems come from.
        split: `train` or `test`.
        n: How many.
        seed: Equal seeds give equal problems; a longer list starts with the shorter one.
        options: Of the family; unset ones have their defaults.
        test_share: See `side`.

    Raises:
        DataError: the family has fewer different problems on that side.
        RecipeError: an option is wrong.
    """
    key = family.canonical if split == "test" else _prompt
    found = list(islice(_distinct(family.generate(seed, options), family, split, key, test_share), n))
    if len(found) < n:
        raise DataError(
            f"{family.name}: {n} {split} problems wanted, but with these options only about {len(found)} different "
            f"ones exist on the {split} side",
            cure=f"ask for at most {len(found)} {split} problems or widen problems.options.{family.name}",
        )
    return found


def _prompt(problem: Problem) -> str:
    return problem.prompt


def _distinct(
    stream: Iterator[Problem], family: Family, split: Split, key: Callable[[Problem], str], test_share: float
) -> Iterator[Problem]:
    """The stream's problems of one split, each key once, until it seems to have no new ones."""
    seen: set[str] = set()
    idle = 0
    # The last of N equally likely inputs takes about N draws to turn up; ten times that is patient.
    while idle < 10_000 + 10 * len(seen) / _share(split, test_share):
        problem = next(stream)
        idle += 1
        if key(problem) not in seen and side(family.canonical(problem), test_share) == split:
            idle = 0
            seen.add(key(problem))
            yield problem


def _share(split: Split, test_share: float) -> float:
    share = test_share if split == "test" else 1 - test_share
    return max(share, 1e-3)
