"""Thinking-mode rewards against numbers that the authors' own code (or, for HGPO, the paper's formula) produced.

Not here: `adaptthink_loss` and `thinkless_degrpo_loss`, which are losses and not rewards.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from laconic.rewards import REWARDS, Batch, Group, Progress, build
from laconic.rewards.advantages import PAPER
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.mode.choice import between_modes
from laconic.rewards.mode.reading import label_of, mode_of, thinks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "length_rewards.json").read_text())


def cases(*entries):
    return [pytest.param(entry, case, id=f"{entry}-{i}") for entry in entries for i, case in enumerate(GOLDEN[entry])]


def group_of(rows, mode=None, **columns):
    """A group from golden rows; `mode` gives a row's mode."""
    if mode is not None:
        columns["mode"] = [mode(row) for row in rows]
    return Group.of([row["correct"] for row in rows], [row["length"] for row in rows], **columns)


@pytest.mark.parametrize(("entry", "case"), cases("adaptthink"))
def test_adapt_think(entry, case):
    group = group_of(
        case["inputs"]["group"],
        mode=lambda row: "no_think" if row["no_thinking"] else "think",
        reference_accuracy=case["inputs"]["ref_mean_acc_thinking"],
    )
    rewards = REWARDS["adapt_think"](group, delta=case["params"]["nothinking_bonus_delta"])
    np.testing.assert_allclose(rewards, case["expected"], atol=1e-9)
    # The authors use the reward as the advantage.
    np.testing.assert_array_equal(PAPER["adapt_think"](Batch.of(group), rewards), rewards)


# The authors look for <short> anywhere in the text; here the control token counts where it stands first.
THINKLESS_DEVIATIONS = {"think, but the text holds <short>": 0.5}


@pytest.mark.parametrize(("entry", "case"), cases("thinkless"))
def test_thinkless(entry, case):
    texts, labels = case["inputs"]["responses"], case["inputs"]["labels"]
    modes = [mode_of(text) for text in texts]
    group = Group.of(
        [f"\\boxed{{{case['inputs']['ground_truth']}}}" in text for text in texts],
        [len(text) for text in texts],
        ["truncated" not in label for label in labels],
        mode=modes,
        well_formed=[mode == "no_think" or "</think>" in text for mode, text in zip(modes, texts, strict=True)],
    )
    given = case["params"]
    wrong = {name: given[name] for name in ("wrong_think", "wrong_short")}
    rewards = REWARDS["thinkless"](group, think=given["correct_think"], short=given["correct_short"], **wrong)
    expected = [THINKLESS_DEVIATIONS.get(*pair) for pair in zip(labels, case["expected"], strict=True)]
    np.testing.assert_allclose(rewards, expected, atol=1e-9)


@pytest.mark.parametrize(("entry", "case"), cases("autothink_stage1", "autothink_stage2", "autothink_stage3"))
def test_auto_think(entry, case):
    rows = case["inputs"].get("batch", case["inputs"].get("group"))
    given, stage = case["params"], int(entry[-1])
    # Stages 1 and 2 switch the length term off by their numbers; here the stage does.
    strength = {"alpha": given["alpha"], "beta": given["beta"]} if stage == 3 else {}
    balance = {"balance": given["batch_balance_rate"], "slope": given["penalty_slope"]} if stage < 3 else {}
    group = group_of(rows, mode=lambda row: "think" if row["think"] else "no_think")
    rewards = build("auto_think", {"stage": stage} | strength | balance)(group)
    np.testing.assert_allclose(rewards, case["expected"], atol=1e-5)


@pytest.mark.parametrize(("entry", "case"), cases("hgpo_inter_group"))
def test_hgpo_between_modes(entry, case):
    think, direct = case["inputs"]["think_rewards"], case["inputs"]["no_think_rewards"]
    thinking = np.arange(len(think) + len(direct)) < len(think)
    won = np.where(thinking, case["expected"]["think"], case["expected"]["no_think"])
    delta = case["params"]["delta"]
    np.testing.assert_array_equal(between_modes(np.array(think + direct, dtype=float), thinking, delta), won)
    group = Group.of(think + direct, [1] * len(thinking), mode=["think" if t else "no_think" for t in thinking])
    np.testing.assert_allclose(REWARDS["hgpo"](group, delta=delta, alpha=0.5), group.correct + 0.5 * won)


@pytest.mark.parametrize(("entry", "case"), cases("adactrl"))
def test_ada_ctrl(entry, case):
    rows, given = case["inputs"]["group"], case["params"]
    rewards = REWARDS["ada_ctrl"](
        group_of(rows, label=[row["label"] for row in rows]),
        threshold=given["diff_threshold"],
        label_weight=given["diff_format_weight"],
        length_weight=given["diff_len_weight"],
    )
    np.testing.assert_allclose(rewards, case["expected"]["total"], atol=1e-5)


@pytest.mark.parametrize(("entry", "case"), cases("arm_ada_grpo"))
def test_arm_and_its_advantages(entry, case):
    rows, given = case["inputs"]["group"], case["params"]
    group = Group.of(
        [row["reward"] == 1.0 for row in rows],
        [1] * len(rows),
        mode=[row["format"] for row in rows],
        progress=Progress(given["current_step"], given["total_steps"]),
    )
    advantages = PAPER["arm"](Batch.of(group), REWARDS["arm"](group))
    np.testing.assert_allclose(advantages, case["expected"], atol=1e-4)


def test_every_mode_entry_is_used():
    """A new golden entry of these papers has to be tested or named as left out."""
    left_out = {"adaptthink_loss", "thinkless_degrpo_loss", "thinkless_advantage"}  # the last: test_advantages.py
    used = {"adaptthink", "thinkless", "hgpo_inter_group", "adactrl", "arm_ada_grpo"}
    used |= {f"autothink_stage{stage}" for stage in (1, 2, 3)}
    about = ("adapt", "thinkless", "autothink", "hgpo", "adactrl", "arm_")
    assert {entry for entry in GOLDEN if entry.startswith(about)} == used | left_out


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("<think> 2 + 2 </think> 4", "think"),
        ("<think>\n\n</think>\n\n4", "no_think"),
        ("<think></think>4", "no_think"),
        ("</think> 4", "no_think"),
        ("\n</think>4", "no_think"),
        ("<short>4", "no_think"),
        ("<no_think> 4 </no_think>", "no_think"),
        ("2 + 2 </think> 4", "think"),  # the template opened it
        ("<think> is <short> allowed? </think> 4", "think"),
        ("<think> never ends", "think"),
        ("not <short>", None),
        ("4", None),
        ("", None),
        ("<ANSWER>4</ANSWER>", "direct"),
        ("<answer>4</answer>", None),
        ("<COT>2 + 2</COT><ANSWER>4</ANSWER>", "short_cot"),
        ("<CODE>print(4)</CODE>", "code"),
        ("<LONG_COT>hm</LONG_COT>", "long_cot"),
    ],
)
def test_mode_of(text, mode):
    assert mode_of(text) == mode


@pytest.mark.parametrize(
    ("text", "label"),
    [("[Easy] 4", "easy"), ("[Hard]", "hard"), ("[easy]", "easy"), (" [Easy]", None), ("Easy", None), ("", None)],
)
def test_label_of(text, label):
    assert label_of(text) == label


def test_thinks_understands_synonyms():
    modes = ["think", "Thinking", "long", "LONG-CoT", None, "no-think", "No Think", "nothink", "NO_THINKING", "direct"]
    group = Group.of([True] * 10, [1] * 10, mode=modes)
    assert thinks(group).tolist() == [True] * 5 + [False] * 5


def test_a_word_that_is_no_mode_is_refused_with_the_legal_ones():
    group = Group.of([True], [1], mode=["fast"])
    with pytest.raises(DataError, match=r"'fast'.*\n.*think.*no_think"):
        REWARDS["adapt_think"](group)


def test_thinkless_punishes_each_mode_by_its_own_number():
    modes = ["think", "short", None, "short", "think"]
    group = Group.of([False, False, True, True, True], [9] * 5, [True] * 3 + [False] * 2, mode=modes)
    assert build("thinkless", {"wrong_think": -0.25, "wrong_short": -2.0})(group).tolist() == [
        *(-0.25, -2.0, -0.25, -2.0, -0.25)
    ]
    for name in ("wrong_think", "wrong_short"):
        with pytest.raises(RecipeError, match=name):
            build("thinkless", {name: 1.0})


def test_ada_ctrl_understands_the_labels_of_dr_saf():
    columns = ([True, True, False], [200, 800, 300])
    words, meant = (["CFRB", "pfrb", "easy"], ["easy", "hard", "easy"])
    rewards = [REWARDS["ada_ctrl"](Group.of(*columns, label=labels)) for labels in (words, meant)]
    np.testing.assert_array_equal(*rewards)


def test_a_word_that_is_no_label_is_refused():
    with pytest.raises(DataError, match=r"medium.*\n.*easy, hard or null"):
        REWARDS["ada_ctrl"](Group.of([True], [1], label=["medium"]))


def test_an_unknown_stage_is_refused():
    with pytest.raises(RecipeError, match="one of 1, 2, 3"):
        build("auto_think", {"stage": 4})


@pytest.mark.parametrize("name", ["adapt_think", "thinkless", "auto_think", "hgpo", "ada_ctrl", "arm"])
def test_runs_on_what_training_fills(name):
    """Mode, label and form are read from each completion; nothing else is there."""
    texts = ["<think> 2 + 2 </think> 4", "</think> 4", "4", "<think> hm", "<CODE>4", "<think> </think> 5"]
    group = Group.of(
        [True, True, True, False, True, False],
        [9, 3, 1, 30, 3, 3],
        [True, True, True, False, True, True],
        mode=[mode_of(text) for text in texts],
        label=[label_of(text) for text in texts],
        well_formed=[text.count("</think>") == 1 for text in texts],
    )
    rewards = REWARDS[name](Batch.of(group, group))
    assert np.isfinite(rewards).all()
    right = group.correct & group.finished & group.well_formed
    assert rewards[:6][right].min() >= rewards[:6][~group.correct].max()


def test_missing_mode_is_named():
    with pytest.raises(DataError, match="needs 'mode'"):
        REWARDS["thinkless"](Group.of([True], [1]))


def test_reference_accuracy_cancels_in_a_group_advantage():
    columns = {"mode": ["think", "no_think", "think", "no_think"]}
    plain = Group.of([True, True, False, False], [1, 2, 3, 4], **columns)
    known = Group.of([True, True, False, False], [1, 2, 3, 4], reference_accuracy=0.75, **columns)
    difference = REWARDS["adapt_think"](plain) - REWARDS["adapt_think"](known)
    np.testing.assert_allclose(difference, 0.75)


def test_auto_think_ill_formed_rollouts_neither_win_nor_lose_at_stage_2():
    group = Group.of([True, True, False], [5, 5, 5], mode=["think", "no_think", "no_think"], well_formed=[False] * 3)
    assert REWARDS["auto_think"](group, stage=2).tolist() == [0.0, 0.0, 0.0]


def test_auto_think_balances_over_the_whole_batch():
    """Half the batch thinks, so nothing moves, although each group has one mode only."""
    thinking = Group.of([True, False], [5, 5], mode=["think"] * 2)
    direct = Group.of([True, False], [5, 5], mode=["no_think"] * 2)
    assert REWARDS["auto_think"](Batch.of(thinking, direct)).tolist() == [1.0, 0.0, 2.0, -1.0]
    assert REWARDS["auto_think"](Batch.of(thinking)).tolist() == [0.0, -1.0]
    assert REWARDS["auto_think"](Batch.of(direct)).tolist() == [1.0, -2.0]


def test_auto_think_stage_3_compares_within_the_group():
    modes = {"mode": ["think"] * 3}
    group, other = Group.of([True, True, False], [5, 9, 7], **modes), Group.of([True] * 3, [500, 900, 7], **modes)
    both = REWARDS["auto_think"](Batch.of(group, other), stage=3)
    np.testing.assert_allclose(both[:3], REWARDS["auto_think"](group, stage=3))
    # z of two members is +-1/sqrt(2); the only wrong rollout keeps its base.
    np.testing.assert_allclose(both[:3], [np.exp(0.05 / 2**0.5), np.exp(-0.05 / 2**0.5), 0.0])


@pytest.mark.parametrize(("think", "direct"), [([1, 1, 1, 0, 0], [1, 1, 0, 0, 0]), ([1] * 9 + [0], [1] * 7 + [0] * 3)])
def test_hgpo_tie_at_delta_goes_to_no_thinking(think, direct):
    """3/5 - 2/5 and 9/10 - 7/10 are 0.2, whatever floating point makes of it."""
    thinking = np.arange(len(think) + len(direct)) < len(think)
    scores = np.array(think + direct, dtype=float)
    np.testing.assert_array_equal(between_modes(scores, thinking, 0.2), ~thinking)
    np.testing.assert_array_equal(between_modes(scores, thinking, 0.19), thinking)


def test_hgpo_with_one_mode_is_accuracy():
    group = Group.of([True, False], [5, 5], mode=["think"] * 2)
    assert REWARDS["hgpo"](group).tolist() == [1.0, 0.0]


def test_ada_ctrl_share_at_the_threshold_is_hard():
    """5 of 8 right is 0.625: not above it."""
    group = Group.of([True] * 5 + [False] * 3, [8] * 8, label=["hard"] * 7 + ["easy"])
    assert REWARDS["ada_ctrl"](group).tolist() == [1.5] * 5 + [-0.5] * 2 + [-1.0]


@pytest.mark.parametrize(("step", "total", "weight"), [(0, 100, 1.0), (50, 100, 0.5), (100, 100, 0.0), (7, None, 1.0)])
def test_arm_fades(step, total, weight):
    """Each format starts with the same total; at the end the reward is accuracy."""
    group = Group.of([True] * 4, [1] * 4, mode=["a", "a", "a", "b"], progress=Progress(step, total))
    np.testing.assert_allclose(REWARDS["arm"](group), [1 + weight / 3] * 3 + [1 + 3 * weight])


def test_arm_pays_nothing_for_no_format():
    assert REWARDS["arm"](Group.of([True, True], [1, 1], mode=[None, "code"])).tolist() == [0.0, 2.0]


def test_arm_counts_two_spellings_as_one_format():
    group = Group.of([True] * 3, [1] * 3, mode=["long_cot", "Long-CoT", "direct"])
    assert REWARDS["arm"](group).tolist() == [1.5, 1.5, 3.0]
