"""What a rollout is worth: records, verification and rewards. numpy only.

Importing this package registers every reward; `laconic.rewards.registry.REWARDS` has them by name.
"""

import importlib
import pkgutil

from laconic.rewards import length, mode, outcome, search
from laconic.rewards.adapters.openrlhf import openrlhf_reward
from laconic.rewards.adapters.trl import trl_reward
from laconic.rewards.adapters.verl import verl_reward
from laconic.rewards.compose import compose, weighted
from laconic.rewards.group import Batch, Group, Progress
from laconic.rewards.registry import REWARDS, Reward, Scorer, build, check, reward

# A new file in one of these folders is found by itself.
for _package in (length, mode, search):
    for _module in pkgutil.iter_modules(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)

__all__ = [
    "REWARDS",
    "Batch",
    "Group",
    "Progress",
    "Reward",
    "Scorer",
    "build",
    "check",
    "compose",
    "length",
    "mode",
    "openrlhf_reward",
    "outcome",
    "reward",
    "search",
    "trl_reward",
    "verl_reward",
    "weighted",
]
