"""Train the same small model with several search rewards, with equal budgets, and keep the result file.

    python bench/search_rewards.py

Nothing is claimed; the table is what came out.
"""

from __future__ import annotations

import sys
from typing import Any

from provenance_line import provenance_line
from search_results import models_table
from seeds import Study, main


def _no_claim(results: dict[str, Any]) -> tuple[bool, str]:
    rows = results["search"]["rows"]
    return True, ", ".join(f"{row['model']} {row['accuracy']:.3f} at {row['searches']:.2f} searches" for row in rows)


REWARDS = Study("search_rewards_small", _no_claim)


def table_section(results: dict[int, dict[str, Any]]) -> str:
    """The guide's table."""
    if not results:
        return "Not yet measured."
    seed = min(results)
    made = provenance_line(results[seed], "python bench/search_rewards.py", f"{REWARDS.recipe}_seed{seed}.json")
    return "\n".join([models_table(results[seed]), "", made])


if __name__ == "__main__":
    sys.exit(main(REWARDS, [0]))
