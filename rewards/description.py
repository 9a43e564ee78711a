"""What a registered reward looks at and promises, in words: for `laconic list rewards` and the reference page."""

from __future__ import annotations

import json

from laconic.rewards.group import COLUMNS
from laconic.rewards.parameters import Parameter
from laconic.rewards.registry import CLAIMS, Reward

_SCOPES = {
    "rollout": "group: no, every rollout stands for itself; batch: no",
    "group": "group: yes, the rollouts of one prompt together; batch: no",
    "batch": "group: yes; batch: yes, all prompts of a training step together",
}
_HISTORY = (
    "yes, it remembers earlier steps; checkpoints hold its memory. In a rollouts file, rows with a `step` are scored "
    "in that order, see `laconic score --help`"
)
_SEARCHED = {"searches", "queries", "retrieved", "passages", "tools", "self_answers", "over_searches", "search_enabled"}


def looks_at(reward: Reward) -> list[str]:
    """Its scope, and `history`, `searches` or `judge` where it has to do with one, in single words."""
    more = (("history", reward.stateful), ("searches", about_searches(reward)), ("judge", reward.judged is not None))
    return [reward.scope, *(word for word, is_so in more if is_so)]


def about_searches(reward: Reward) -> bool:
    """Whether it reads what a rollout did with its search engine."""
    return not _SEARCHED.isdisjoint((*reward.needs, *reward.uses))


def needs(reward: Reward) -> list[str]:
    """One line per thing that a reward has to be given: siblings, other prompts, memory, a judge, columns."""
    found = [
        _SCOPES[reward.scope],
        f"history: {_HISTORY if reward.stateful else 'no'}",
        f"searches: {'yes' if about_searches(reward) else 'no'}",
        f"judge: {f'yes, its verdict is `{reward.judged.column}`. {reward.judged.asks}' if reward.judged else 'no'}",
        *(f"column `{name}` ({COLUMNS[name].unit}): {COLUMNS[name].about}" for name in reward.needs),
        *(f"read if there: `{name}` ({COLUMNS[name].unit}): {COLUMNS[name].about}" for name in reward.uses),
    ]
    if reward.cap is not None:
        unless = "" if reward.cap_wants is None else f", unless `{reward.cap_wants}` is null"
        found.append(f"may stop early (`stop_early`): above `{reward.cap}` all rollouts earn the same{unless}")
    found += ["may abstain: null instead of a reward, advantage 0"] if reward.abstains else []
    return [*found, f"speed: below 100,000 rollouts per second on one core: {reward.slow}"] if reward.slow else found


def claims(reward: Reward) -> list[str]:
    """One line per claim: those that are made, and tested on random groups, then those that are not."""
    made = [f"yes: {text}" for name, text in CLAIMS.items() if name in reward.claims]
    return made + [f"not claimed: {text}" for name, text in CLAIMS.items() if name not in reward.claims]


def default(parameter: Parameter) -> str:
    """The default as a recipe would write it."""
    return parameter.default if isinstance(parameter.default, str) else json.dumps(parameter.default)
