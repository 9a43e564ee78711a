"""The procedural families, by name. Importing this loads no heavy library."""

from __future__ import annotations

import difflib

from laconic.data_gen.families.base import Family, Option
from laconic.data_gen.families.chain_sum import ChainSum
from laconic.data_gen.families.countdown import Countdown
from laconic.data_gen.families.divisors import Gcd, Lcm
from laconic.data_gen.families.number_sorting import NumberSorting
from laconic.data_gen.families.numerals import BaseConversion, CountBits
from laconic.data_gen.families.prime_factorization import PrimeFactorization
from laconic.data_gen.families.shortest_path import ShortestPath
from laconic.rewards.errors import RecipeError

__all__ = ["FAMILIES", "Family", "Option", "family"]

FAMILIES: dict[str, Family] = {
    item.name: item
    for item in (
        ChainSum(),
        Gcd(),
        Lcm(),
        BaseConversion(),
        NumberSorting(),
        CountBits(),
        PrimeFactorization(),
        ShortestPath(),
        Countdown(),
    )
}


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        RecipeError: there is none.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    nearest = difflib.get_close_matches(name, FAMILIES, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise RecipeError(f"problems.families: unknown family {name!r}", cure=f"{hint}there are {', '.join(FAMILIES)}")
