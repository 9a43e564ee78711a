"""The reference page: up to date, complete, and its numbers those of the worked group."""

import re
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group
from laconic.rewards.columns import ALIASES
from laconic.rewards.group import COLUMNS
from laconic.rewards.reference import main, page, worked_rewards
from laconic.rewards.registry import build
from laconic.rewards.worked_group import ROLLOUTS, example_group

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "rewards.md"
NAMES = sorted(REWARDS)


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m laconic.rewards.reference > docs/reference/rewards.md"


def test_a_stale_page_is_found_out(tmp_path, capsys):
    path = tmp_path / "rewards.md"
    assert main(["--check", str(path)]) == 1
    path.write_text(page(), encoding="utf-8")
    assert main(["--check", str(path)]) == 0
    path.write_text(page() + "\n", encoding="utf-8")
    assert main(["--check", str(path)]) == 1
    assert "stale" in capsys.readouterr().err


def test_every_reward_has_a_line_and_a_section():
    text = page()
    assert re.findall(r"^\| \[(\w+)\]\(#\1\)", text, re.MULTILINE) == NAMES
    assert sorted(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == NAMES
    # A tag outside of code would vanish from the page.
    prose = re.sub(r"```.*?```|``.+?``|`[^`\n]+`|^ {4}.*$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"<(?!https?:)", prose) == []


def test_rows_of_the_comparison_have_as_many_cells_as_its_head():
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    table = rows[: len(NAMES) + 2]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in table} == {11}


def test_every_column_is_listed_with_all_its_names():
    section = page().partition("## Columns of a rollouts file")[2]
    rows = [re.split(r"(?<!\\)\|", line) for line in section.splitlines() if line.startswith("| `")]
    assert {len(cells) for cells in rows} == {7}
    found = {cells[1].strip(" `"): cells[5] for cells in rows}
    assert found.keys() == COLUMNS.keys() | {"prompt_id", "step", "task"}
    for name, aliases in ALIASES.items():
        assert all(f"`{alias}`" in found[name] for alias in aliases)
    assert "`num_tokens`" in found["budget"]
    assert "`finish_reason` (stop is true, length is false)" in found["finished"]
    assert "`think` (true is think, false is no_think)" in found["mode"]
    assert "the number of `queries`" in found["searches"]
    assert found["task"].strip() == "-"


def test_numbers_by_hand():
    text = page()
    assert "| rollout | - | 1 | 1 | 0 | 0 | ABCDE |" in text  # accuracy
    # efficient_reasoning: both right lengths lie one standard deviation from their mean.
    sigmoid = 1 / (1 + np.exp(-1))
    expected = [1 - 0.1 * (1 - sigmoid), 1 - 0.1 * sigmoid, 0, 0]
    np.testing.assert_allclose(worked_rewards(REWARDS["efficient_reasoning"]), expected, atol=1e-6)
    # hapo has seen the group once: the shortest right length is 500.
    short = 1 + max(-0.7, np.cos(np.pi / 2))
    np.testing.assert_allclose(
        worked_rewards(REWARDS["hapo"]), [short, 0.3, min(0, np.cos(0.4 * np.pi)), -1], atol=1e-9
    )


def test_the_worked_group_has_every_column_and_agrees_with_itself():
    group = example_group()
    assert [name for name in COLUMNS if getattr(group, name) is None] == []
    for rollout in ROLLOUTS:
        assert len(rollout["ids"]) == rollout["length"] > rollout["think_length"]
        searched = [len(rollout[name]) for name in ("queries", "retrieved", "passages", "tools", "self_answers")]
        assert searched == [rollout["searches"]] * 5
        assert rollout["over_searches"] <= rollout["searches"]
        assert rollout["correct"] == (rollout["answer"] in group.golds)
        assert rollout["text"].count("<search>") == rollout["searches"]


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_reads_only_the_columns_that_it_declares(name):
    reward, full = REWARDS[name], example_group()
    declared = {"correct", "length", "finished", *reward.needs, *reward.uses}
    columns = {column: getattr(full, column) for column in declared}
    small = Group(**columns, problem_id=full.problem_id, task=full.task)
    np.testing.assert_array_equal(build(name)(Batch.of(small)), build(name)(Batch.of(full)))
