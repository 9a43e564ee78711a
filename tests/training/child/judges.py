"""Judges that tests name in recipes as `judge: judges:<function>`."""

import asyncio

ASKED = []
"""The texts that `by_thinking` was asked about in this process."""


async def by_thinking(row):
    """10 for no thinking down to 1; no verdict for a rollout that never stopped thinking."""
    ASKED.append(row["text"])
    await asyncio.sleep(0)
    if "</think>" not in row["text"] or row["question"] is None:
        return "I cannot say."
    return max(1, 10 - int(row["think_length"]) // 2)


async def even(row):
    """The same for all."""
    return 5


async def by_searches(row):
    """A probability that grows with the searches."""
    return row["searches"] / (row["searches"] + 1)
