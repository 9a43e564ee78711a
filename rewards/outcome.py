"""Rewards for the outcome alone: is it right, is it well formed."""

from __future__ import annotations

import re

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import reward

# The opening tag may stand in the prompt (templates that pre-fill it), so only the rest is asked for.
_WELL_FORMED = re.compile(r"\s*(?:<think>)?((?!</?think>).)*</think>((?!</?think>).)*\S((?!</?think>).)*", re.DOTALL)


@reward(paper="-", scope="rollout")
def accuracy(group: Group) -> Array:
    """1 for a correct rollout, 0 for a wrong one.

    A rollout that was cut by the token limit counts as the verifier judged it, as in TRL and most evaluation code.

    >>> accuracy(Group.of(correct=[True, False], length=[10, 20])).tolist()
    [1.0, 0.0]
    """
    return group.correct.astype(float)


@reward(paper="arXiv:2501.12948", scope="rollout", needs=("text",))
def format(group: Group) -> Array:
    """1 for a completion of the form ``<think> ... </think> answer``, else 0.

    Exactly one ``</think>``, something after it, and at most one ``<think>``, at the start. The opening tag may be
    missing, because some chat templates (DeepSeek-R1's) already wrote it into the prompt; a reward that insists on
    it is 0 for every completion of such a model.

    >>> text = ["<think> 1 + 1 = 2 </think> 2", "no tags", "1 + 1 = 2 </think> 2"]
    >>> format(Group.of(correct=[True, True, True], length=[9, 2, 8], text=text)).tolist()
    [1.0, 0.0, 1.0]
    """
    assert group.text is not None
    return np.array([float(_WELL_FORMED.fullmatch(text) is not None) for text in group.text])
