"""How the loss of a few rollouts counts, so that micro-batches of any size add up to TRL's loss of the whole step.

TRL (1.16) divides the sum over a micro-batch of `per_device_train_batch_size` rollouts by one of three things.
"""

from __future__ import annotations

ROW_MEANS = frozenset({"grpo", "sapo", "dr_grpo", "luspo"})
"""The number of its rollouts."""
GENERATION_TOKENS = frozenset({"cispo", "dapo", "vespo"})
"""The tokens of all rollouts of the generation, on all processes."""
OWN_TOKENS = frozenset({"bnpo"})
"""Its own tokens."""
LOSSES = ROW_MEANS | GENERATION_TOKENS | OWN_TOKENS


def loss_weight(loss_type: str, *, rows: int, tokens: int, of_rows: int, of_tokens: int) -> float:
    """What TRL's loss of some rollouts is multiplied by, so that parts add up to its loss of a whole micro-batch.

    Args:
        loss_type: TRL's name of the loss.
        rows: Rollouts in the part.
        tokens: Their tokens in the loss.
        of_rows: Rollouts of TRL's micro-batch; any may be in the part, also from another micro-batch of its step.
        of_tokens: Tokens in the loss of the micro-batch that the part belongs to.
    """
    if loss_type in ROW_MEANS:
        return rows / of_rows
    if loss_type in GENERATION_TOKENS:
        return 1.0
    return token_share(tokens, of_tokens)


def token_share(tokens: int, of_tokens: int) -> float:
    """The share of a micro-batch's tokens, by which means over tokens add up; TRL divides by at least one."""
    return max(tokens, 1) / max(of_tokens, 1)
