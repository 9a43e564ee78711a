"""Run the search quickstart for several seeds, keep each result file, and say whether the claim holds for every seed.

    python bench/search_seeds.py [SEED ...]        (default: 0 1 2)

The claim, on held-out questions: the checkpoint trained with `mash` makes at most 60 % of the searches of the one
trained on the outcome alone, and is right at most 2 points less often; it searches on fewer than 20 % of the questions
whose facts it was taught, and on more than 80 % of those whose facts it was not. The accuracy is held to the
difference itself; its 95 % interval stands beside it.
"""

from __future__ import annotations

import sys
from typing import Any

from seeds import Study, main

MOST_SEARCHES, MARGIN = 0.60, 0.02
MOST_OF_KNOWN, LEAST_OF_MISSING = 0.20, 0.80


def verdict(results: dict[str, Any]) -> tuple[bool, str]:
    """Whether a result file supports the claim, and the figures that decide it."""
    found = results["search"]
    pair = next(pair for pair in found["paired"] if (pair["model"], pair["baseline"]) == ("mash", "outcome"))
    row = next(row for row in found["rows"] if row["model"] == "mash")
    holds = (
        pair["searches_ratio"] <= MOST_SEARCHES
        and pair["d_accuracy"] >= -MARGIN
        and row["searched_known"] < MOST_OF_KNOWN
        and row["searched_missing"] > LEAST_OF_MISSING
    )
    low, high = pair["d_accuracy_ci"]
    return holds, (
        f"searches {pair['searches_ratio']:.3f} of outcome, accuracy {pair['d_accuracy']:+.3f} ({low:+.3f} to "
        f"{high:+.3f}), searched on {row['searched_known']:.3f} of taught and {row['searched_missing']:.3f} of others"
    )


SEARCH = Study("search_quickstart", verdict, {"accuracy_searches": "search_quickstart"})


if __name__ == "__main__":
    sys.exit(main(SEARCH, [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
