"""Rewards of two generation batches on this launch's ranks, each rank with its own share of the rows.

torchrun --nproc_per_node 2 adapter_ranks.py FOLDER writes FOLDER/<rank>.json.
"""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.reward_adapter import GroupScorer, RewardAdapter

NAMES = ("accuracy", "efficient_reasoning", "shorter_better", "kimi_length")
PROBLEMS = {
    "a": Problem(id="a", prompt="3 + 4 =", answer="7", task="chain_sum"),
    "b": Problem(id="b", prompt="4 + 4 =", answer="8", task="chain_sum"),
    "broken": Problem(id="broken", prompt="?", answer="", task="math"),
}
# Three groups of four: on two ranks with six rows each the middle one is split.
BATCHES = (
    [
        ("a", ["7", "<think> 3 + 4 = 7 </think> 7", "8", "<think> 3 </think> 7"]),
        ("b", ["<think> 4 + 4 = 8 </think> 8", "8", "<think> 8 </think> 7", "<think> 4 + 4 + 4 = 8 </think> 8"]),
        ("a", ["8", "8", "3", "<think> 7 </think> 4"]),
    ],
    [
        ("b", ["7", "8", "<think> 8 </think> 8", "4"]),
        ("broken", ["7", "7", "7", "7"]),
        ("b", ["8", "<think> 8 = 8 </think> 8", "8", "7"]),
    ],
)


def rewards(process: int, processes: int) -> dict[str, list]:
    """By reward: what a process with its share of the rows gets for each batch; by metric: what it logs."""
    tokenizer = scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])
    scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
    adapters = {name: RewardAdapter(name, {}, scorer, log_raw=name == NAMES[0]) for name in NAMES}
    found = {name: [] for name in NAMES}
    for groups in BATCHES:
        rows = [(problem, text) for problem, texts in groups for text in texts]
        share = len(rows) // processes
        problems, texts = zip(*rows[process * share : (process + 1) * share], strict=True)
        ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        for name, adapter in adapters.items():
            given = {"completion_ids": ids, "problem_id": problems}
            found[name] += adapter(**given, log_metric=lambda key, value: found.setdefault(key, []).append(value))
    return found


if __name__ == "__main__":
    state = PartialState(cpu=True)
    text = json.dumps(rewards(state.process_index, state.num_processes))
    (Path(sys.argv[1]) / f"{state.process_index}.json").write_text(text)
