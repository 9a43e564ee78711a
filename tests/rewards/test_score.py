"""Files of rollouts: read and checked, scored with memory in step order, and measured."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards import REWARDS, Batch, Group, Progress, advantages, registry
from laconic.rewards.columns import ALIASES, READINGS
from laconic.rewards.errors import DataError, LaunchError
from laconic.rewards.group import COLUMNS
from laconic.rewards.records import Rollout
from laconic.rewards.registry import build
from laconic.rewards.rollouts_file import read_file
from laconic.rewards.score import Chosen, arrange, as_rows, score_one
from laconic.rewards.score_report import properties_of, spearman
from laconic.rewards.worked_group import PROBLEM, ROLLOUTS, example_group


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rollouts.jsonl"


@pytest.fixture
def own_rewards():
    """Rewards that a test registers are gone after it."""
    before = set(REWARDS)
    yield
    for name in set(REWARDS) - before:
        del REWARDS[name]


def row(prompt_id, correct, length, **columns):
    return {"prompt_id": prompt_id, "correct": correct, "length": length, **columns}


def write(path, rows):
    path.write_text("".join(f"{json.dumps(item)}\n" for item in rows))


def table_of(path, rows, *chosen, **options):
    write(path, rows)
    chosen = [item if isinstance(item, Chosen) else Chosen(item) for item in chosen]
    return arrange(read_file(path), chosen, **options)


def scored(path, rows, name, parameters=None, **options):
    table = table_of(path, rows, Chosen(name, parameters or {}), **options)
    return table.joined(score_one(table, table.chosen[0]).rewards)


def measured(path, rows, name, parameters=None):
    table = table_of(path, rows, Chosen(name, parameters or {}))
    return properties_of(table, score_one(table, table.chosen[0]))


def test_rows_of_a_prompt_need_not_be_adjacent(path):
    rows = [row("a", True, 100), row("b", True, 70), row("a", True, 300), row("b", False, 10), row("a", False, 20)]
    expected = np.empty(5)
    expected[[0, 2, 4]] = REWARDS["efficient_reasoning"](Group.of([True, True, False], [100, 300, 20]))
    expected[[1, 3]] = REWARDS["efficient_reasoning"](Group.of([True, False], [70, 10]))
    np.testing.assert_array_equal(scored(path, rows, "efficient_reasoning"), expected)


def test_steps_are_batches_in_their_order_whatever_the_order_of_the_file(path):
    steps = {3: ([True, False], [1200, 300]), 5: ([True, True], [600, 2400]), 11: ([True, False], [900, 1200])}
    hapo, expected, rows = build("hapo"), {}, []
    for step, (correct, lengths) in steps.items():
        expected[step] = hapo(Batch.of(Group.of(correct, lengths, problem_id="p")))
        rows += [row("p", c, length, step=step) for c, length in zip(correct, lengths, strict=True)]
    order = [4, 2, 0, 5, 3, 1]
    shuffled = scored(path, [rows[at] for at in order], "hapo")
    np.testing.assert_array_equal(shuffled, np.concatenate(list(expected.values()))[order])
    together = scored(path, [{k: v for k, v in item.items() if k != "step"} for item in rows], "hapo")
    assert not np.array_equal(together, np.concatenate(list(expected.values())))


def test_progress_is_the_files_or_the_callers(path):
    rows = [row("p", True, 10, step=7), row("p", True, 10, step=2)]
    moments = [batch.progress for batch in table_of(path, rows, "accuracy", progress=Progress(0, 20)).batches]
    assert moments == [Progress(2, 20), Progress(7, 20)]
    assert table_of(path, [row("p", True, 10)], "accuracy", progress=Progress(4, 8)).batches[0].progress.share == 0.5
    with pytest.raises(DataError, match="steps of their own"):
        table_of(path, rows, "accuracy", progress=Progress(4, 8))


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_reward_reads_from_a_file_what_it_reads_from_a_group(path, name):
    # Columns of the problem may stand in one row only.
    rows = [row("river", **rollout) for rollout in ROLLOUTS]
    rows[1] |= PROBLEM
    rows = [item | {"task": "qa"} for item in rows]
    found = scored(path, rows, name)
    np.testing.assert_array_equal(found, build(name)(Batch.of(example_group())))


def test_the_rollouts_of_a_stage_can_be_scored(path):
    rollouts = [
        Rollout("p", 0, "math", "<think> 1 </think> 2", "2", True, True, 12, 9, 3, meta={"budget": 1000}),
        Rollout("p", 1, "math", "no", None, False, False, 900, 900, 0, meta={"budget": 1000}),
    ]
    rows = [rollout.to_json() for rollout in rollouts]
    np.testing.assert_array_equal(scored(path, rows, "format"), [1.0, 0.0])
    expected = REWARDS["l1_exact"](Group.of([True, False], [12, 900], [True, False], budget=[1000, 1000]))
    np.testing.assert_array_equal(scored(path, rows, "l1_exact"), expected)
    assert table_of(path, rows, "accuracy").batches[0].finished.tolist() == [True, False]


def test_rollouts_without_a_verdict_are_left_out_and_counted(path):
    rows = [row("p", True, 100), row("p", None, 1), row("p", True, 300)]
    table = table_of(path, rows, "shorter_better")
    lines = as_rows(table, [score_one(table, table.chosen[0])])
    assert [line["rewards"]["shorter_better"] for line in lines] == [2.0, None, 1.8]
    assert lines[1]["advantages"] == {"shorter_better": 0.0}
    assert "1 of 3 rollouts have no verdict" in table.notes[0]
    with pytest.raises(DataError, match="no rollout has a verdict"):
        table_of(path, rows[1:2], "accuracy")


def test_searches_are_counted_from_queries_or_passages(path):
    rows = [row("p", True, 9, queries=["a", "b"]), row("p", True, 9, retrieved=[["1"]]), row("p", True, 9, searches=0)]
    np.testing.assert_array_equal(scored(path, rows, "mash", {"decay": 0.5}), [0.25, 0.5, 1.0])


def test_advantages_are_trls(path):
    lengths, correct = [100, 300, 50, 80], [True, True, False, False]
    rows = [row(prompt, c, length) for prompt in "ab" for c, length in zip(correct, lengths, strict=True)]
    table = table_of(path, rows, "shorter_better")
    score = score_one(table, table.chosen[0])
    rewards = score.rewards[0][:4]
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(score.advantages[0], [*expected, *expected], rtol=1e-12)


def test_advantages_of_the_paper(path):
    rows = [row("p", True, 100), row("p", True, 300), row("p", False, 50)]
    table = table_of(path, rows, "efficient_reasoning", "shorter_better")
    ours = score_one(table, table.chosen[0], kind="paper")
    rewards = ours.rewards[0]
    leave_one_out = [rewards[at] - np.delete(rewards, at).mean() for at in range(3)]
    np.testing.assert_allclose(ours.advantages[0], leave_one_out)
    plain, paper = (score_one(table, table.chosen[1], kind=kind).advantages[0] for kind in ("grpo", "paper"))
    np.testing.assert_array_equal(plain, paper)


def test_advantages_of_the_paper_follow_the_parameters(path):
    rows = [row("p", True, 100, finished=True), row("p", True, 300, finished=False), row("p", False, 50, finished=True)]
    plain = table_of(path, rows, Chosen("dler"))
    released = table_of(path, rows, Chosen("dler", {"as_released": True}))
    for table, parameters in ((plain, {}), (released, {"as_released": True})):
        score = score_one(table, table.chosen[0], kind="paper")
        expected = advantages.paper("dler", table.batches[0], score.rewards[0], parameters)
        np.testing.assert_array_equal(score.advantages[0], expected)
    without_boost = advantages.dler(released.batches[0], score.rewards[0])
    np.testing.assert_allclose(score.advantages[0] - without_boost, [0.1, 0, 0], atol=1e-12)


def test_a_judge_fills_its_column(path):
    async def judge(seen):
        assert seen["question"] == "Why?"
        return "well" if seen["text"] == "b" else {"a": 9, "c": 4}[seen["text"]]

    rows = [row("p", True, 10, text=text) for text in "abc"]
    rows[0]["question"] = "Why?"
    with pytest.raises(DataError, match=r"rollouts.jsonl:1: no 'judgement'"):
        table_of(path, rows, "concise_rl")
    table = table_of(path, rows, "concise_rl", judge=judge)
    found = score_one(table, table.chosen[0], judge=judge)
    np.testing.assert_array_equal(found.rewards[0], [0.9, np.nan, 0.4])
    assert found.advantages[0][1] == 0


def test_verdicts_that_cannot_be_read_are_counted_with_an_example(path):
    said = iter([7, "rather well", None, 4])
    rows = [row("p", True, 10) for _ in range(4)]
    table = table_of(path, rows, "concise_rl", judge=lambda seen: next(said))
    found = score_one(table, table.chosen[0], judge=lambda seen: next(said))
    np.testing.assert_array_equal(found.rewards[0], [0.7, np.nan, np.nan, 0.4])
    (note,) = found.notes
    assert note.startswith("2 of 4 verdicts of the judge cannot be read, so concise_rl abstains there: ")
    assert f"for example 'rather well' for {path}:2" in note
    assert REWARDS["concise_rl"].judged.asks in note
    assert score_one(table, table.chosen[0], judge=lambda seen: 5).notes == ()


def test_a_judge_that_fails_is_said_with_the_line_of_the_file(path):
    rows = [row("a", True, 10, text="x"), row("b", True, 10, text="y"), row("a", True, 10)]
    table = table_of(path, rows, "concise_rl", judge=lambda seen: 1)
    with pytest.raises(LaunchError, match=rf"failed on {path}:3: KeyError: 'text'"):
        score_one(table, table.chosen[0], judge=lambda seen: seen["text"])


GOOD = row("p", True, 100)
MISTAKES = {
    "missing": [
        ({"prompt_id": "p", "correct": True}, "no 'length'", "'length' or 'tokens'"),
        ({"correct": True, "length": 1}, "no 'prompt_id'", "'problem_id'"),
        ({"prompt_id": "p", "length": 1}, "no 'correct'", "the key 'correct'"),
        ({"prompt_id": "p", "correct": True, "lenght": 1}, "no 'length'", "'lenght'"),
    ],
    "wrong": [
        (row("p", "yes", 1), "correct is 'yes'", "true or false"),
        (row("p", True, -1), "length is -1", "at least 0"),
        (row("p", True, None), "length is None", "number of tokens"),
        (row("p", True, "12"), "length is '12'", "number of tokens"),
        (row("p", True, float("nan")), "length is nan", "number of tokens"),
        (row("p", True, float("inf")), "length is inf", "number of tokens"),
        (row("p", True, True), "length is True", "number of tokens"),
        (row("p", True, 1, finished="no"), "finished is 'no'", "true or false"),
        (row("p", True, 1, finished=None), "finished is None", "true or false"),
        (row(1.5, True, 1), "prompt_id is 1.5", "a text or a whole number"),
        (row("p", True, 1, step="2"), "step is '2'", "in every row or in none"),
        (row("p", True, 1, task=3), "task is 3", "a text"),
    ],
}


@pytest.mark.parametrize(("bad", "what", "cure"), [*MISTAKES["missing"], *MISTAKES["wrong"]])
def test_mistakes_name_line_key_and_value(path, bad, what, cure):
    good = {key: value for key, value in (GOOD | {"finished": True, "step": 1}).items() if key != "step" or key in bad}
    with pytest.raises(DataError) as caught:
        table_of(path, [bad, good] if "task" in bad else [good, bad], "accuracy")
    line = 1 if "task" in bad else 2
    assert f"{path}:{line}: {what}" in caught.value.message
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("column", "value", "reward", "what"),
    [
        ("searches", "2", "mash", "searches is '2'"),
        ("queries", "one", "mash", "queries is 'one'"),
        ("text", ["no"], "format", "text is ['no']"),
        ("ids", ["a"], "repetition", "ids is ['a']"),
        ("ids", [1.5], "repetition", "ids is [1.5]"),
        ("judgement", "high", "concise_rl", "judgement is 'high'"),
        ("reference_accuracy", 1.2, "adapt_think", "reference_accuracy is 1.2"),
    ],
)
def test_columns_are_checked_value_by_value(path, column, value, reward, what):
    with pytest.raises(DataError) as caught:
        table_of(path, [GOOD | {"mode": "think", column: value}], reward)
    assert f"{path}:1: {what}" in caught.value.message


def test_a_missing_column_names_the_first_row_without_it_and_what_was_perhaps_meant(path):
    rows = [row("a", True, 1, searches=1), row("b", True, 1, serches=2), row("b", True, 1, searches=1)]
    with pytest.raises(DataError) as caught:
        table_of(path, rows, "mash")
    assert f"{path}:2: no 'searches'" in caught.value.message
    assert "mash needs it" in caught.value.message
    assert "'serches'" in caught.value.cure
    assert table_of(path, rows, "accuracy").notes == ()


def test_a_column_that_only_some_rows_have_is_not_used_and_said(path):
    (note,) = table_of(path, [row("a", True, 1, finished=False), row("a", True, 1)], "accuracy").notes
    assert "finished" in note
    assert f"{path}:2" in note
    (note,) = table_of(path, [row("a", True, 1, finnished=False)], "accuracy").notes
    assert "'finnished'" in note


@pytest.mark.parametrize(
    ("key", "reward", "hint"),
    [
        ("ref_accuracy", "adapt_think", "reference_accuracy"),
        ("format", "laser", "well_formed"),
        ("wellness", "laser", None),
        ("well_form", "laser", "well_formed"),
    ],
)
def test_an_abbreviation_of_a_column_that_is_only_read_is_pointed_at(path, key, reward, hint):
    notes = table_of(path, [row("a", True, 1, mode="think", finished=True, **{key: 0.5})], reward).notes
    found = [note for note in notes if "nobody reads the key" in note]
    assert [key in note and repr(hint) in note for note in found] == ([True] if hint else [])


def test_columns_that_only_would_be_read_are_said_in_one_line(path):
    rows = [row("a", True, 100, mode="think"), row("a", False, 300, mode="no_think")]
    (note,) = table_of(path, rows, "l1_exact", "adapt_think", "dler", "hapo", "shorter_better").notes
    said = dict(part.split(" also reads ") for part in note.split(":")[0].split("; "))
    assert said == {
        "l1_exact": "budget",
        "adapt_think": "reference_accuracy, well_formed",
        "dler": "finished",
        "hapo": "step",
    }
    full = [item | {"finished": True, "step": 0, "budget": 9, "ref_acc": 0.5, "format_ok": 1} for item in rows]
    (note,) = table_of(path, full, "l1_exact", "adapt_think", "dler", "hapo").notes
    assert note == "reference_accuracy is read from ref_acc, well_formed is read from format_ok"
    partly = [full[0], {key: value for key, value in full[1].items() if key != "budget"}]
    (note,) = table_of(path, partly, "l1_exact").notes
    assert note.startswith("budget is not used: only some rows have it")


def test_an_answer_that_is_read_from_the_text_is_not_missed(path):
    base = row("a", True, 100, finished=True, golds=["x"])
    reward = next(item.name for item in REWARDS.values() if {"answer", "text", "well_formed"} <= {*item.uses})

    def missed(**given):
        notes = table_of(path, [base | given], reward).notes
        listed = notes[0].split(":")[0].split(" also reads ")[1].split(", ") if notes else []
        return {"answer", "text"} & {*listed}

    assert missed() == {"answer", "text"}
    assert missed(text="<answer>x</answer>") == set()
    assert missed(answer="x") == {"text"}
    assert missed(answer="x", well_formed=True) == set()


def test_a_budget_may_be_negative_as_in_the_data_of_its_authors(path):
    lengths, correct = [500, 1000, 2500, 500], [True, True, True, False]
    rows = [row("p", c, length, num_tokens=-1000) for c, length in zip(correct, lengths, strict=True)]
    expected = REWARDS["l1_max"](Group.of(correct, lengths, budget=[1000] * 4))
    np.testing.assert_array_equal(scored(path, rows, "l1_max"), expected)
    assert expected[0] == pytest.approx(0.65)
    with pytest.raises(DataError, match="num_tokens is 'many'"):
        scored(path, [rows[0] | {"num_tokens": "many"}], "l1_max")


VALUES = {"bool": True, "text": "word", "tokens": 5, "searches": 2, "share": 0.5}


@pytest.mark.parametrize(("name", "alias"), [(name, alias) for name, given in ALIASES.items() for alias in given])
def test_a_column_is_read_under_each_of_its_names(path, name, alias):
    known = {"prompt_id": "p", "correct": True, "length": 5}
    if name == "prompt_id":
        given = {key: value for key, value in known.items() if key != name}
        write(path, [given | {alias: "q"}])
        assert read_file(path).prompt_id(0) == "q"
        return
    column = COLUMNS[name]
    value = VALUES.get(column.unit, [1, 2] if column.unit == "list of token ids" else ["a", "b"])
    write(path, [known | {alias: value}] if name != "length" else [{"prompt_id": "p", "correct": True, alias: value}])
    assert read_file(path).rows[0].value(column) == value


@pytest.mark.parametrize(
    ("given", "name", "read"),
    [
        ({"label": "correct"}, "correct", True),
        ({"label": "wrong"}, "correct", False),
        ({"label": "format_error"}, "correct", False),
        ({"label": "wrong"}, "well_formed", True),
        ({"label": "format_error"}, "well_formed", False),
        ({"finish_reason": "stop"}, "finished", True),
        ({"finish_reason": "length"}, "finished", False),
        ({"truncated": True}, "finished", False),
        ({"truncated": False}, "finished", True),
        ({"think": True}, "mode", "think"),
        ({"think": 0}, "mode", "no_think"),
        ({"no_thinking": True}, "mode", "no_think"),
        ({"no_thinking": False}, "mode", "think"),
        # The column itself is stronger, and other words say nothing.
        ({"truncated": True, "finished": True}, "finished", True),
        ({"label": "easy"}, "correct", None),
        ({"finish_reason": None}, "finished", None),
        ({"think": "<think> 1 </think>"}, "mode", None),
        ({"think": ["a"]}, "mode", None),
    ],
)
def test_other_words_for_a_column(path, given, name, read):
    write(path, [given])
    (found,) = read_file(path).rows
    assert found.value(COLUMNS[name]) == read
    assert found.has(COLUMNS[name]) == (read is not None)


def test_other_words_are_those_of_known_columns():
    assert READINGS.keys() <= COLUMNS.keys()
    taken = [alias for given in ALIASES.values() for alias in given]
    assert len(taken) == len({*taken})
    assert not {*taken, *(key for keys in READINGS.values() for key in keys if key != "label")} & COLUMNS.keys()


def test_laser_scores_the_labels_of_its_authors(path):
    labels, lengths = ["correct", "correct", "wrong", "format_error"], [1000, 9000, 1000, 9000]
    rows = [{"prompt_id": "p", "label": label, "length": n} for label, n in zip(labels, lengths, strict=True)]
    expected = REWARDS["laser"](Group.of([True, True, False, False], lengths, well_formed=[True, True, True, False]))
    np.testing.assert_array_equal(scored(path, rows, "laser"), expected)
    assert len({*expected.tolist()}) == 4


@pytest.mark.parametrize(
    ("reward", "columns", "message"),
    [
        ("adapt_think", {"mode": "thnk"}, "mode 'thnk'"),
        ("ada_ctrl", {"label": "medium"}, "label 'medium'"),
        ("auto_think", {"mode": "perhaps"}, "mode 'perhaps'"),
    ],
)
def test_a_word_that_a_reward_does_not_know_is_named_with_its_line(path, reward, columns, message):
    key = next(iter(columns))
    rows = [row(prompt, True, 100, **{key: {"mode": "think", "label": "easy"}[key]}) for prompt in "aab"]
    rows.append(rows[2] | columns)
    with pytest.raises(DataError) as caught:
        scored(path, rows, reward)
    assert f"{path}:4: reward {reward}: {message}" in caught.value.message
    assert caught.value.cure


@pytest.mark.usefixtures("own_rewards")
def test_a_complaint_about_a_whole_group_names_its_prompt(path):
    @registry.reward(paper="-", kind="outcome")
    def no_pairs(group: Group) -> np.ndarray:
        if group.size == 2:
            raise DataError("two are not enough")
        return group.correct.astype(float)

    with pytest.raises(DataError) as caught:
        scored(path, [row("a", True, 1), row("b", True, 1), row("b", True, 1)], "no_pairs")
    assert caught.value.message == f"{path}: prompt b (lines 2, 3): reward no_pairs: two are not enough"


def test_rows_of_a_prompt_agree_on_its_problem(path):
    rows = [row("a", True, 1, golds=["x"]), row("b", True, 1, golds=["y"]), row("a", True, 1, golds=["z"])]
    rows = [item | {"answer": "x"} for item in rows]
    with pytest.raises(DataError, match=r"rollouts.jsonl:3: golds is \['z'\] here and \['x'\] in line 1"):
        table_of(path, rows, "search_r1")


def test_empty_files_and_odd_lines(path):
    for text, what in (("", "no rollouts"), ("\n\n", "no rollouts"), ("[1]\n", ":1: list"), ("\n{\n", ":2: not JSON")):
        path.write_text(text)
        with pytest.raises(DataError, match=what):
            read_file(path)
    with pytest.raises(DataError, match="no such file"):
        read_file(path.with_name("none.jsonl"))


@pytest.mark.usefixtures("own_rewards")
def test_a_reward_that_may_not_abstain_is_refused_where_it_would(path):
    @registry.reward(paper="-", kind="outcome", needs=("budget",))
    def spread(group: Group) -> np.ndarray:
        return group.budget - group.budget.mean()

    rows = [row("p", True, 10, budget=1), row("p", True, 10, budget=None)]
    with pytest.raises(DataError) as caught:
        scored(path, rows, "spread")
    assert f"{path}:1: reward spread is nan" in caught.value.message
    assert "'budget' in line 2" in caught.value.cure


def test_properties_of_a_reward_that_pushes_wrong_answers_too(path):
    rows = [row("a", True, 100), row("a", True, 5000), row("a", False, 200), row("b", False, 10), row("b", False, 10)]
    found = measured(path, rows, "shorter_better")
    # a: 2, -2.9, -0.1; b: 0, 0.
    assert (found.pairs, found.wrong_above_right) == (2, 1)
    pair = found.first_wrong_above_right
    assert (pair.wrong_line, pair.right_line, pair.prompt_id) == (3, 2, "a")
    np.testing.assert_allclose([pair.wrong_reward, pair.right_reward], [-0.1, -2.9])
    assert (found.groups, found.groups_without_signal) == (2, 1)
    np.testing.assert_allclose([found.mean_right, found.mean_wrong], [-0.45, -0.1 / 3])
    assert (found.wrong_tried, found.wrong_moved) == (3, 3)
    # a: 0.1 to 0.3 away from 100, or to 0; b: the mean moves with the rollout: 20 and 10, or 5 and 10, around it.
    np.testing.assert_allclose(found.change_at_twice_the_length, (-0.2 - 0.005 - 0.005) / 3)
    np.testing.assert_allclose(found.change_at_half_the_length, (0.1 - 0.0025 - 0.0025) / 3)


def test_properties_of_a_reward_that_leaves_wrong_answers_alone(path):
    rows = [row("a", True, 100), row("a", True, 5000), row("a", False, 200), row("a", False, 900)]
    found = measured(path, rows, "efficient_reasoning")
    assert (found.wrong_above_right, found.first_wrong_above_right, found.pairs) == (0, None, 4)
    assert (found.wrong_tried, found.wrong_moved, found.groups_without_signal) == (2, 0, 0)
    assert (found.spearman.right, found.spearman.wrong) == (-1.0, None)


def test_length_pressure_is_looked_for_with_the_memory_of_the_time(path):
    # In step 2 the shortest right answer known is 100: the wrong one of 120 loses, at 60 it would not.
    rows = [row("a", True, 100, step=1), row("a", False, 50, step=1), row("a", False, 120, step=2)]
    found = measured(path, rows, "hapo")
    assert (found.wrong_tried, found.wrong_moved) == (2, 1)
    at = {length: min(0.0, np.cos(np.pi / 2 * min(length / 100, 2))) for length in (60, 120, 240)}
    np.testing.assert_allclose(found.change_at_twice_the_length, (at[240] - at[120]) / 2)
    np.testing.assert_allclose(found.change_at_half_the_length, (at[60] - at[120]) / 2)


def test_length_pressure_across_groups_is_not_taken_for_ones_own(path):
    # The price of a_dlp is the same for all; the two wrong rollouts of the batch are tried one by one.
    rows = [row("a", True, 100), row("a", False, 50), row("b", False, 60)]
    found = measured(path, rows, "a_dlp")
    assert (found.wrong_tried, found.wrong_moved) == (2, 2)
    np.testing.assert_allclose(found.change_at_twice_the_length, -1e-3 * (50 + 60) / 2)


def test_abstentions_are_counted_and_compared_with_nothing(path):
    rows = [row("a", True, length, judgement=judgement) for length, judgement in ((10, 9), (20, None), (30, 4))]
    found = measured(path, rows, "concise_rl")
    assert (found.abstained, found.pairs, found.mean_wrong) == (1, 0, None)
    np.testing.assert_allclose(found.mean_right, 0.65)
    assert found.spearman.right == -1.0


def plain_spearman(first, second):
    """Mean ranks by counting, then Pearson."""
    ranks = [[sum(w < v for w in x) + (sum(w == v for w in x) + 1) / 2 for v in x] for x in (first, second)]
    return np.corrcoef(ranks)[0, 1]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25))
def test_rank_correlation(pairs):
    first, second = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        np.testing.assert_allclose(found, plain_spearman(first, second), atol=1e-12)


def test_rank_correlation_inside_groups_does_not_see_differences_between_them():
    whose = np.array([0, 1, 0, 1, 0, 1])
    lengths = np.array([10.0, 1000.0, 20.0, 2000.0, 30.0, 3000.0])
    rewards = np.array([3.0, 30.0, 2.0, 20.0, 1.0, 10.0])
    assert spearman(rewards, lengths, whose) == pytest.approx(-1.0)
    assert spearman(rewards, lengths) > 0
    assert spearman(np.zeros(0), np.zeros(0)) is None


def test_equal_files_give_equal_scores_wherever_they_lie(path, tmp_path):
    rows = [row(7, True, 100), row(7, False, 30)]
    table = table_of(path, rows, "shorter_better")
    (tmp_path / "other").mkdir()
    copied = shutil.copy(path, tmp_path / "other" / "x.jsonl")
    again = arrange(read_file(copied), table.chosen)
    lines = [as_rows(one, [score_one(one, one.chosen[0])]) for one in (table, again)]
    assert lines[0] == lines[1]
    assert [line["prompt_id"] for line in lines[0]] == [7, 7]
