"""What a rollout is worth: records, verification and rewards. numpy only.

Importing this package registers every reward; `laconic.rewards.registry.REWARDS` has them by name.
"""

from laconic.rewards import length, outcome
from laconic.rewards.group import Group
from laconic.rewards.registry import REWARDS, build, check, reward

__all__ = ["REWARDS", "Group", "build", "check", "length", "outcome", "reward"]
