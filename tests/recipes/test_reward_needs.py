"""Rewards that look at searches: let through where models search, and refused with a cure where they do not."""

import pytest

from laconic.recipes.source import load_recipe
from laconic.rewards.errors import RecipeError

WORLD = "{source: world, size: 40, train: 16, test: 8}"
FILE = "{source: jsonl, train: train.jsonl, test: test.jsonl}"
RECIPE = """
name: needs
problems: {problems}
model: {{path: some/model}}
{search}
stages:
  - kind: grpo
    rewards: [{{name: {reward}}}]
"""


def load(tmp_path, reward, *, problems=WORLD, search="search: {max_searches: 2}"):
    path = tmp_path / "needs.yaml"
    path.write_text(RECIPE.format(problems=problems, search=search, reward=reward))
    return load_recipe(str(path))


@pytest.mark.parametrize("reward", ["mash", "ikea", "saas", "inforage", "auto_search", "step_search", "webleaper"])
def test_with_searches_rewards_may_look_at_them(tmp_path, reward):
    assert load(tmp_path, reward).stages[0].rewards[0].name == reward


def test_a_world_knows_which_steps_were_needless(tmp_path):
    assert load(tmp_path, "hiprag").stages[0].rewards[0].name == "hiprag"
    served = "search: {retriever: 'http://127.0.0.1:8000'}"
    with pytest.raises(
        RecipeError, match=r"hiprag needs 'over_searches'.*which search episodes do not have"
    ) as refused:
        load(tmp_path, "hiprag", problems=FILE, search=served)
    assert "laconic score" in refused.value.cure


@pytest.mark.parametrize("reward", ["mash", "hiprag"])
def test_without_searches_there_is_nothing_to_look_at(tmp_path, reward):
    with pytest.raises(RecipeError, match=r"stages\[0\].rewards\[0\]: reward \w+ needs '\w*searches'") as refused:
        load(tmp_path, reward, search="")
    assert "`search:`" in refused.value.cure
