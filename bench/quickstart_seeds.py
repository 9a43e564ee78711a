"""Run the quickstart for several seeds, keep each result file, and say whether the claim holds for every seed.

    python bench/quickstart_seeds.py [SEED ...]        (default: 0 1 2)

The claim: on held-out problems the GRPO checkpoint uses at most 60 % of the SFT checkpoint's tokens, and its accuracy
is not lower (one-sided non-inferiority, margin 1 point).
"""

from __future__ import annotations

import sys
from typing import Any

from seeds import Study, main

MOST_TOKENS = 0.60


def verdict(results: dict[str, Any]) -> tuple[bool, str]:
    """Whether a result file supports the claim, and the figures that decide it."""
    pair = next(pair for pair in results["paired"] if (pair["model"], pair["baseline"]) == ("grpo", "sft"))
    holds = pair["token_ratio"] <= MOST_TOKENS and pair["non_inferior"]
    accuracy = {row["model"]: row["accuracy"] for row in results["rows"]}
    return holds, (
        f"tokens {pair['token_ratio']:.3f} of sft, accuracy {accuracy['sft']:.3f} -> {accuracy['grpo']:.3f} "
        f"(lower bound {pair['non_inferiority_bound']:+.3f})"
    )


QUICKSTART = Study("quickstart", verdict, {"accuracy_tokens": "quickstart", "policies_sft": "quickstart_policies"})


if __name__ == "__main__":
    sys.exit(main(QUICKSTART, [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
