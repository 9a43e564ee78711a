"""One worked group with every column filled by hand: what the reference page computes its comparison table on.

Four answers to "Which river flows through the capital of France?": a right one given directly, a right one after long
thinking and two searches, a wrong one given directly, a wrong one after longer thinking and three searches.
"""

from __future__ import annotations

from typing import Any

from laconic.rewards.group import Group

TITLES = ("right, short", "right, long", "wrong, short", "wrong, long")
"""What its four rollouts are, in order."""

_SEINE = "The Seine flows through Paris."
_PARIS = "Paris is the capital of France."
_LYON = "Lyon lies where the Rhone meets the Saone."
_RIVERS = "Rivers of Europe"

PROBLEM: dict[str, Any] = {
    "task": "qa",
    "question": "Which river flows through the capital of France?",
    "golds": ["Seine", "the Seine"],
    "gold_ids": ["paris", "seine"],
    "gold_passages": [_PARIS, _SEINE],
    "gold_queries": [["capital of France"], ["river through Paris", "river of Paris"]],
    "gold_entities": ["Seine", "Paris"],
    "tools_offered": ["local_search", "web_search"],
    "reference_accuracy": 0.5,
}
"""Columns of the problem."""

_ANSWERED_AT_ONCE: dict[str, Any] = {
    "finished": True,
    "well_formed": True,
    "think_length": 20,
    "budget": 4000,
    "mode": "no_think",
    "label": "easy",
    "searches": 0,
    "queries": [],
    "retrieved": [],
    "passages": [],
    "tools": [],
    "notes": ["*Paris is the capital*"],
    "self_answers": [],
    "invalid_actions": 0,
    "search_enabled": True,
    "over_searches": 0,
    "reasoning_steps": 1,
    "under_searches": 0,
    "direct_answer_prob": 0.6,
}

ROLLOUTS: tuple[dict[str, Any], ...] = (
    _ANSWERED_AT_ONCE
    | {
        "correct": True,
        "length": 500,
        "text": "<think> </think> <answer> Seine </answer>",
        "ids": [*range(500)],
        "answer": "Seine",
        "prefix_length": 10,
        "answer_prob": 0.6,
        "judgement": 9,
        "entailment": 0.9,
        "entities": ["Seine"],
    },
    _ANSWERED_AT_ONCE
    | {
        "correct": True,
        "length": 6000,
        "think_length": 5900,
        "text": "<think> The capital comes first. </think> <search> capital of France </search> "
        f"<information> {_PARIS} </information> <think> Now its river. </think> <search> river through Paris </search> "
        f"<information> {_SEINE} </information> <think> The Seine. </think> <answer> Seine </answer>",
        "ids": [*range(6000)],
        "answer": "Seine",
        "prefix_length": 2500,
        "answer_prob": 0.95,
        "judgement": 4,
        "mode": "think",
        "label": "hard",
        "searches": 2,
        "queries": ["capital of France", "river through Paris"],
        "retrieved": [["paris", "lyon"], ["seine", "paris"]],
        "passages": [[_PARIS, _LYON], [_SEINE, _PARIS]],
        "tools": ["local_search", "web_search"],
        "notes": ["*the Seine flows through Paris*"],
        "self_answers": ["Loire", "Seine"],
        "over_searches": 1,
        "reasoning_steps": 1,
        "entailment": 0.95,
        "entities": ["Seine", "Paris"],
    },
    _ANSWERED_AT_ONCE
    | {
        "correct": False,
        "length": 400,
        "text": "<think> </think> <answer> Rhone </answer>",
        "ids": [*range(400)],
        "answer": "Rhone",
        "prefix_length": None,
        "answer_prob": 0.1,
        "judgement": 8,
        "notes": [],
        "under_searches": 1,
        "entailment": 0.05,
        "entities": ["Rhone"],
    },
    _ANSWERED_AT_ONCE
    | {
        "correct": False,
        "length": 12000,
        "think_length": 11900,
        "text": "<think> Rivers. </think> <search> rivers of Europe </search> "
        f"<information> {_RIVERS} </information> <think> Again. </think> <search> rivers of Europe </search> "
        f"<information> {_RIVERS} </information> <think> Lyon? </think> <search> Lyon </search> "
        f"<information> {_LYON} </information> <think> The Rhone. </think> <answer> Rhone </answer>",
        "ids": [number % 3000 for number in range(12000)],
        "answer": "Rhone",
        "prefix_length": None,
        "answer_prob": 0.2,
        "judgement": 2,
        "mode": "think",
        "label": "hard",
        "searches": 3,
        "queries": ["rivers of Europe", "rivers of Europe", "Lyon"],
        "retrieved": [["rivers"], ["rivers"], ["lyon"]],
        "passages": [[_RIVERS], [_RIVERS], [_LYON]],
        "tools": ["web_search", "web_search", "local_search"],
        "notes": ["*Lyon lies on the Rhone*"],
        "self_answers": ["Loire", "Loire", "Rhone"],
        "invalid_actions": 1,
        "over_searches": 1,
        "reasoning_steps": 2,
        "entailment": 0.1,
        "entities": ["Rhone", "Lyon"],
    },
)
"""Columns of the rollouts, in the order of `TITLES`."""


def example_group(**given: Any) -> Group:
    """The worked group; `given` arguments of `Group.of` win.

    >>> example_group().length.tolist()
    [500.0, 6000.0, 400.0, 12000.0]
    """
    columns = {name: [rollout[name] for rollout in ROLLOUTS] for name in ROLLOUTS[0]}
    return Group.of(**({"problem_id": "river"} | columns | PROBLEM | given))
