"""Rewards for the outcome alone: is it right, is it well formed."""

from __future__ import annotations

import re

import numpy as np

from laconic.rewards.group import Array, Group
from laconic.rewards.registry import reward

# The opening tag may stand in the prompt (templates that pre-fill it), so only the rest is asked for.
_WELL_FORMED = re.compile(r"\s*(?:<think>)?((?!</?think>).)*</think>((?!</?think>).)*\S((?!</?think>).)*", re.DOTALL)

_LENGTH_BLIND = ("right_above_wrong", "shorter_is_no_worse", "no_length_pressure_on_wrong")


@reward(
    paper="-",
    scope="rollout",
    claims=(*_LENGTH_BLIND, "fewer_searches_is_no_worse", "no_search_pressure_on_wrong"),
)
def accuracy(group: Group) -> Array:
    """1 for a correct rollout, 0 for a wrong one.

    Formula::

        r = c

    A rollout that was cut by the token limit counts as the verifier judged it, as in TRL and most evaluation code.

    Args:
        group: The rollouts of one problem.

    Deviations: None.

    Gaming: Whatever the verifier accepts: its mistakes are what training finds.

    Source: Common practice.

    >>> accuracy(Group.of(correct=[True, False], length=[10, 20])).tolist()
    [1.0, 0.0]
    """
    return group.correct.astype(float)


@reward(paper="arXiv:2501.12948", scope="rollout", needs=("text",))
def format(group: Group) -> Array:
    """1 for a completion of the form ``<think> ... </think> answer``, else 0.

    Formula::

        r = 1 if the completion matches the form, else 0

    Exactly one ``</think>``, something after it, and at most one ``<think>``, at the start. The opening tag may be
    missing, because some chat templates (DeepSeek-R1's) already wrote it into the prompt; a reward that insists on
    it is 0 for every completion of such a model.

    Args:
        group: The rollouts of one problem.

    Deviations: No code was released by the paper's authors.

    Gaming: It is paid to wrong answers too, so alone it teaches the form and nothing else.

    Source: DeepSeek-AI, "DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning".

    >>> text = ["<think> 1 + 1 = 2 </think> 2", "no tags", "1 + 1 = 2 </think> 2"]
    >>> format(Group.of(correct=[True, True, True], length=[9, 2, 8], text=text)).tolist()
    [1.0, 0.0, 1.0]
    """
    assert group.text is not None
    return np.array([float(has_form(text)) for text in group.text])


def has_form(text: str | None) -> bool:
    """Whether a completion is ``<think> ... </think> answer``; the opening tag may be missing."""
    return text is not None and _WELL_FORMED.fullmatch(text) is not None
