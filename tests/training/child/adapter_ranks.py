"""Rewards of two generation batches on this launch's ranks, each rank with its own share of the rows.

torchrun --nproc_per_node 2 adapter_ranks.py FOLDER writes FOLDER/<rank>.json.
"""

import json
import sys
from pathlib import Path

import judges
from accelerate import PartialState

from laconic.rewards.records import Problem
from laconic.training import scratch
from laconic.training.group_scorer import GroupScorer
from laconic.training.reward_adapter import RewardAdapter

ENTRIES = (
    {"name": "accuracy"},
    {"name": "efficient_reasoning"},
    {"name": "shorter_better", "gate": {"kind": "adaptive", "start": 1.0, "rate": 0.5}},
    {"name": "kimi_length"},
    {"name": "hapo"},
    {"name": "concise_rl", "judge": "judges:by_thinking"},
)
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
    """By reward: what a process with its share of the rows gets for each batch; by metric: what it logs; memories."""
    tokenizer = scratch.symbolic_tokenizer(["3", "4", "7", "8", "+", "="])
    scorer = GroupScorer(PROBLEMS, tokenizer, num_generations=4)
    adapters = {entry["name"]: RewardAdapter(entry, scorer, log_raw=entry is ENTRIES[0]) for entry in ENTRIES}
    found = {name: [] for name in adapters}
    judges.ASKED.clear()
    for groups in BATCHES:
        rows = [(problem, text) for problem, texts in groups for text in texts]
        share = len(rows) // processes
        problems, texts = zip(*rows[process * share : (process + 1) * share], strict=True)
        ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
        # With others beside it, a process has its judges asked before all of its rollouts are there.
        scorer.expect([{"problem_id": problem} for problem in problems])
        for row in (5, 3, 0, 4) if processes > 1 else ():
            scorer.finished(row, ids[row])
        for name, adapter in adapters.items():
            given = {"completion_ids": ids, "problem_id": problems}
            found[name] += adapter(**given, log_metric=lambda key, value: found.setdefault(key, []).append(value))
    return found | {
        "asked": len(judges.ASKED),
        "memory": {name: adapter.state_dict() for name, adapter in adapters.items()},
    }


if __name__ == "__main__":
    state = PartialState(cpu=True)
    text = json.dumps(rewards(state.process_index, state.num_processes))
    (Path(sys.argv[1]) / f"{state.process_index}.json").write_text(text)
