"""Made-up groups with every column filled, to try a reward on: random ones for tests and benches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconic.rewards.group import COLUMNS, Group

_WORDS = ("river", "Paris", "the blue", "no", "42", "blue river")
_TEXTS = (
    "<think> 1 + 1 </think> 2",
    "<think> </think> 2",
    "<think> <think> </think> 1",
    "</think>",
    "",
    "<think> a </think> <search> q </search> <answer> Paris </answer>",
)
_PROBLEM = {
    "task": "math",
    "question": "Where is it?",
    "golds": ["Paris", "city of Paris"],
    "gold_ids": ["p0", "p3"],
    "gold_passages": ["Paris blue river", "no 42"],
    "gold_queries": [["Paris 0", "Paris 1"], ["river 2"]],
    "gold_entities": ["Paris", "river"],
    "tools_offered": ["local_search", "web_search"],
    "reference_accuracy": 0.5,
}


def random_search(rng: np.random.Generator, searches: int) -> dict[str, Any]:
    """The columns that describe this many executed searches of one rollout, as plain values."""
    return {
        "searches": searches,
        "queries": [f"{_word(rng)} {rng.integers(3)}" for _ in range(searches)],
        "retrieved": [[f"p{rng.integers(6)}" for _ in range(3)] for _ in range(searches)],
        "passages": [[f"{_word(rng)} {_word(rng)}" for _ in range(3)] for _ in range(searches)],
        "tools": [str(rng.choice(_PROBLEM["tools_offered"])) for _ in range(searches)],
        "self_answers": [_word(rng) for _ in range(searches)],
        "over_searches": int(rng.integers(searches + 1)),
    }


def random_rollout(rng: np.random.Generator, **given: Any) -> dict[str, Any]:
    """One rollout with every column that can be random, as plain values; `given` columns are taken as they are."""
    length = int(given.get("length", rng.integers(1, 32768)))
    searches = int(given.get("searches", rng.integers(5)))
    correct = bool(given.get("correct", rng.random() < 0.5))
    think, steps = int(rng.integers(length)), int(rng.integers(3))
    answer = None if not correct and rng.random() < 0.1 else "Paris" if correct else _word(rng, but="Paris")
    columns = random_search(rng, searches) | {
        "correct": correct,
        "finished": bool(rng.random() < 0.8),
        "well_formed": bool(rng.random() < 0.8),
        "length": length,
        "think_length": think,
        # Where no answer could be read, the text must have none: it is read too.
        "text": str(rng.choice(_TEXTS if answer else _TEXTS[:-1])),
        "ids": rng.integers(9, size=min(length, 40)).tolist(),
        "answer": answer,
        "budget": int(rng.integers(1, 4000)),
        "prefix_length": None if rng.random() < 0.3 else think // 2,
        "answer_prob": float(rng.random()),
        "direct_answer_prob": 0.25,
        "judgement": None if rng.random() < 0.2 else int(rng.integers(1, 11)),
        "mode": str(rng.choice(["think", "no_think"])),
        "label": [None, "easy", "hard"][rng.integers(3)],
        "notes": [f"*{_word(rng)}*" for _ in range(rng.integers(3))],
        "invalid_actions": int(rng.integers(3)),
        "search_enabled": searches > 0 or bool(rng.random() < 0.5),
        "reasoning_steps": steps,
        "under_searches": int(rng.integers(steps + 1)),
        "entailment": float(rng.random()),
        "entities": [_word(rng) for _ in range(rng.integers(4))],
    }
    return columns | given


def group_of(rows: Sequence[Mapping[str, Any]], **given: Any) -> Group:
    """The rollouts as one group, of a made-up problem; `given` arguments of `Group.of` win."""
    names = [name for name, column in COLUMNS.items() if column.owner == "rollout" and all(name in row for row in rows)]
    columns = {name: [row[name] for row in rows] for name in names}
    return Group.of(**({"problem_id": "p"} | columns | _PROBLEM | given))


def random_group(size: int, *, seed: int, **given: Any) -> Group:
    """A group of `size` random rollouts with every column."""
    rng = np.random.default_rng(seed)
    return group_of([random_rollout(rng) for _ in range(size)], **given)


def _word(rng: np.random.Generator, but: str | None = None) -> str:
    return str(rng.choice([word for word in _WORDS if word != but]))
