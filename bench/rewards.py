"""How many rollouts per second each reward scores, on one core.

    python bench/rewards.py [--rollouts 100000] [--write]

Groups of 16 with every column filled, so that no reward takes a short cut; judges have given their verdicts. Seconds
are the process's own, the best of five runs after one that warms up, so that other load on the machine does not decide.
`--write` keeps the figures in bench/results/rewards.json. The exit status is 1 if a reward scores fewer than 100,000
per second and its registration does not say why.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

# Before numpy is loaded: one core means one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from laconic.eval.provenance import provenance
from laconic.rewards import REWARDS, Batch
from laconic.rewards.example import random_group

RESULTS = Path(__file__).parent / "results" / "rewards.json"
GROUP, FLOOR, RUNS = 16, 100_000, 5


def rate(name: str, batch: Batch) -> float:
    """Rollouts per second of one reward with its default parameters."""
    scorer = REWARDS[name].build()
    scorer(batch)
    seconds = []
    gc.disable()  # a collection during a run would be charged to whichever reward it hits
    for _ in range(RUNS):
        start = time.process_time()
        scorer(batch)
        seconds.append(time.process_time() - start)
    gc.enable()
    return batch.size / min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    groups = options.rollouts // GROUP
    batch = Batch(tuple(random_group(GROUP, seed=seed, problem_id=f"p{seed}") for seed in range(groups)))
    rates = {name: rate(name, batch) for name in sorted(REWARDS)}
    for name, value in sorted(rates.items(), key=lambda item: item[1]):
        reason = f"  ({REWARDS[name].slow})" if REWARDS[name].slow else ""
        print(f"{value:>14,.0f} rollouts/s  {name}{reason}")
    if options.write:
        facts = provenance(seeds=f"0 to {groups - 1}", n=batch.size, group_size=GROUP, rollouts_per_second=rates)
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")
    too_slow = [name for name, value in rates.items() if value < FLOOR and not REWARDS[name].slow]
    print("\nunder", f"{FLOOR:,}", "without a reason:", ", ".join(too_slow) or "none")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main())
