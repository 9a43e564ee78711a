"""Rewards of two generation batches on this launch's ranks, each rank with its own share of the rows.

torchrun --nproc_per_node 2 trl_ranks.py FOLDER writes FOLDER/<rank>.json.
"""

import json
import sys
from pathlib import Path

import torch

from laconic.rewards.adapters.trl import trl_reward

NAMES = ("efficient_reasoning", "shorter_better", "hapo")
EOS = 0
# Three groups of four: on two ranks with six rows each the middle one is split. 4 is the right answer.
BATCHES = (
    [
        ("a", [[4, EOS], [1, 2, 4, EOS], [3, EOS], [1, 2, 3, 1]]),
        ("b", [[3, 3, 4, EOS], [4], [1, EOS], [1, 1, 4, EOS]]),
        ("d", [[2, 4, EOS], [4, EOS], [1, 2, 3, 4, EOS], [1, EOS]]),
    ],
    [
        ("b", [[1, 4, EOS], [2, EOS], [1, 1, 1, 4, EOS], [4, EOS]]),
        ("c", [[1], [2, EOS], [3, 3, EOS], [1, EOS]]),
        ("a", [[4, EOS], [4, 4, 4, EOS], [1, EOS], [2]]),
    ],
)


def rewards(process: int, processes: int) -> dict:
    """By reward: what a process with its share of the rows gets for each batch, and the memory it ends with."""
    found = {}
    for name in NAMES:
        reward = trl_reward(name, verify=lambda text, **_: "4" in text, eos_ids=[EOS])
        found[name] = []
        for groups in BATCHES:
            rows = [(prompt, ids) for prompt, group in groups for ids in group]
            share = len(rows) // processes
            prompts, ids = zip(*rows[process * share : (process + 1) * share], strict=True)
            texts = [" ".join(map(str, row)) for row in ids]
            found[name].append(reward(prompts=prompts, completions=texts, completion_ids=ids))
        found[f"{name} memory"] = reward.state_dict()
    return found


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    text = json.dumps(rewards(rank, torch.distributed.get_world_size()))
    (Path(sys.argv[1]) / f"{rank}.json").write_text(text)
    torch.distributed.destroy_process_group()
