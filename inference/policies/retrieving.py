"""What policies that search need around them: a retriever, and a limit on what the model can hold."""

from __future__ import annotations

from dataclasses import replace

from laconic.inference.policies.base import Policy, Registered
from laconic.inference.policies.searching import Searching
from laconic.rewards.errors import LaunchError


def searches(registered: Registered) -> bool:
    """Whether a policy searches."""
    return issubclass(registered.policy, Searching)


def check_retriever(registered: Registered, *, retriever: bool) -> None:
    """Refuse a policy that searches where there is nothing to search in.

    Raises:
        LaunchError: there is no retriever.
    """
    if searches(registered) and not retriever:
        cure = "name one: --retriever FOLDER, FILE.jsonl or URL"
        raise LaunchError(f"policy {registered.name} needs a retriever", cure=cure)


def within(policy: Policy, positions: int | None) -> Policy:
    """The policy, its episodes held to what the model has positions for, unless it has a limit of its own.

    Documents that were put in would otherwise carry an episode beyond them, which is an error.

    Args:
        policy: Any.
        positions: The longest sequence of the model; None if that is not known.
    """
    if positions is None or not isinstance(policy, Searching) or policy.context_tokens is not None:
        return policy
    return replace(policy, context_tokens=positions)
