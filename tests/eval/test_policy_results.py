"""Policies against no policy: rows add up, comparisons are paired, and words claim no more than was shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laconic.eval import policy_plot, policy_table
from laconic.eval.policy_results import Prices, accuracy_verdict, measure_policies
from laconic.eval.policy_stage import without_policy
from laconic.inference.ledger import FATES, ROLES
from laconic.rewards.errors import DataError


def answered(row, name, *, tokens=None, probes=0, discarded=0, abstained=False, **changes):
    """A rollout as `policy_runs` writes it."""
    answer_tokens = min(2, row.answer_tokens)
    thinking = (row.tokens if tokens is None else tokens) - answer_tokens
    table = {role: dict.fromkeys(FATES, 0) for role in ROLES}
    table["think"] = {"kept": thinking, "voted": 0, "discarded": discarded}
    table["answer"]["kept"] = answer_tokens
    table["probe"]["discarded"] = probes
    total = thinking + answer_tokens + probes + discarded
    ledger = {
        **{"generated": total, "by_role": table, "forced": 3, "prompt": 10, "cached": 4, "scored": 0},
        **{"critical_path": total - discarded, "seconds": 0.5, "exact": {"generated": True, "prompt": True}},
    }
    meta = {"policy": name, "name": name, "parameters": {}, "finish": "stop", "abstained": abstained, "ledger": ledger}
    verdict = {"answer": None, "correct": False} if abstained else {}
    counts = {"tokens": total, "think_tokens": total - answer_tokens, "answer_tokens": answer_tokens}
    return replace(row, **counts, meta=meta, **verdict, **changes)


@pytest.fixture
def asked(make):
    problems = make.problems(700)
    plain = make.rollouts(problems, samples=1, mean_tokens=60, seed=5)
    rng = np.random.default_rng(3)
    policies = {
        "half": [answered(row, "half", tokens=max(4, row.tokens // 2)) for row in plain],
        "probed": [answered(row, "probed", probes=5, discarded=7) for row in plain],
        "careless": [
            answered(row, "careless", tokens=4, correct=bool(row.correct and rng.random() < 0.7)) for row in plain
        ],
        "shy": [answered(row, "shy", abstained=not row.correct) for row in plain],
    }
    return problems, {"sft": {"none": without_policy(plain, {p.id: 9 for p in problems}), **policies}}


def part(asked, make, **settings):
    prices = settings.pop("prices", None)
    return measure_policies(*asked, make.settings(samples=1, **settings), prices=prices)


def test_rows_add_up(asked, make):
    rows = {row["policy"]: row for row in part(asked, make)["rows"]}
    assert list(rows) == ["none", "half", "probed", "careless", "shy"]
    for row in rows.values():
        assert sum(row["by_role"].values()) == pytest.approx(row["tokens"])
        assert sum(row["by_fate"].values()) == pytest.approx(row["tokens"])
        assert row["by_role"]["think"] + row["by_role"]["probe"] == pytest.approx(row["think_tokens"])
    assert rows["probed"]["by_role"]["probe"] == 5
    assert rows["probed"]["by_fate"]["discarded"] == 12
    assert rows["probed"]["critical_path"] == pytest.approx(rows["probed"]["tokens"] - 7)
    assert (rows["none"]["critical_path"], rows["none"]["seconds"]) == (rows["none"]["tokens"], None)
    assert rows["none"]["by_fate"] == {"kept": pytest.approx(rows["none"]["tokens"]), "voted": 0, "discarded": 0}


def test_a_withheld_answer_lowers_accuracy_and_coverage_but_not_accuracy_among_the_answered(asked, make):
    rows = {row["policy"]: row for row in part(asked, make)["rows"]}
    right = rows["none"]["accuracy"]
    assert (rows["shy"]["accuracy"], rows["shy"]["coverage"]) == (pytest.approx(right), pytest.approx(right))
    assert rows["shy"]["accuracy_answered"] == 1.0
    assert (rows["none"]["coverage"], rows["none"]["accuracy_answered"]) == (1.0, pytest.approx(right))


def test_comparisons_are_with_no_policy_of_the_same_model(asked, make):
    problems, models = asked
    both = {**models, "grpo": {**models["sft"], "none": models["sft"]["half"]}}
    found = part((problems, both), make)
    rows = {(row["model"], row["policy"]): row for row in found["rows"]}
    for pair in found["paired"]:
        mine, base = rows[pair["model"], pair["policy"]], rows[pair["model"], "none"]
        assert pair["token_ratio"] == pytest.approx(mine["tokens"] / base["tokens"])
        assert pair["d_tokens"] == pytest.approx(mine["tokens"] - base["tokens"])
        assert pair["d_accuracy"] == pytest.approx(mine["accuracy"] - base["accuracy"])
        assert pair["d_tokens_p_holm"] >= pair["d_tokens_p"]
    halves = [pair for pair in found["paired"] if pair["policy"] == "half"]
    assert [pair["token_ratio"] for pair in halves] == [pytest.approx(0.5, abs=0.02), 1.0]
    assert [pair["saves"] for pair in halves] == [True, False]


def test_words(asked, make):
    pairs = {pair["policy"]: pair for pair in part(asked, make)["paired"]}
    assert {name: pair["says"] for name, pair in pairs.items()} == {
        "half": "saves tokens, not less often right",
        "probed": "costs more, not less often right",
        "careless": "saves tokens, less often right",
        "shy": "no significant change of tokens, not less often right",
    }
    assert [name for name, pair in pairs.items() if pair["saves"]] == ["half"]


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_few_problems_show_nothing(asked, make, n):
    problems, models = asked
    few = {"none": models["sft"]["none"], "half": models["sft"]["half"], "careless": models["sft"]["careless"]}
    found = part((problems[:n], {"sft": few}), make)
    half = next(pair for pair in found["paired"] if pair["policy"] == "half")
    assert half["says"] == (
        "saves tokens, no significant change" if n == 10 else "no significant change of tokens, no significant change"
    )
    assert half["non_inferior"] is False
    assert half["d_accuracy_se"] is None  # not one answer changed
    assert half["d_accuracy_ci"][0] < -0.2 < 0.2 < half["d_accuracy_ci"][1]
    assert (half["token_ratio_ci"] is None) == (n < 10)
    results = {"policies": json.loads(json.dumps(found, allow_nan=False))}
    assert " 4.0 ± – |" in policy_table.markdown(results)  # careless: always four tokens


@pytest.mark.parametrize(
    ("difference", "p_value", "p_holm", "interval", "expected"),
    [
        (-0.05, 0.03, 0.9, (-0.09, -0.01), "lost"),  # many comparisons do not make a loss harmless
        (0.05, 0.03, 0.9, (0.01, 0.09), "open"),  # but they do make a gain doubtful
        (0.05, 0.001, 0.02, (0.02, 0.09), "gained"),
        (-0.01, 0.6, 1.0, (-0.05, 0.03), "open"),
    ],
    ids=["loss is not adjusted", "gain is", "gained", "open"],
)
def test_verdicts_on_accuracy(difference, p_value, p_holm, interval, expected):
    pair = {"d_accuracy": difference, "p_value": p_value, "p_holm": p_holm, "d_accuracy_ci": interval}
    assert accuracy_verdict({**pair, "non_inferior": False}) == expected


def test_money(asked, make):
    rows = {row["policy"]: row for row in part(asked, make, prices=Prices(prompt=2.0, generated=10.0))["rows"]}
    half = rows["half"]
    assert half["price"] == pytest.approx((13 * 2.0 + half["tokens"] * 10.0) / 1e6)
    assert half["price_per_correct"] == pytest.approx(half["price"] / half["accuracy"])
    assert rows["none"]["price"] == pytest.approx((9 * 2.0 + rows["none"]["tokens"] * 10.0) / 1e6)


def test_tasks_are_measured_apart_and_together(make):
    problems = make.problems(60, tasks=("chain_sum", "count_bits"))
    plain = make.rollouts(problems, samples=2, seed=5)
    half = [answered(row, "half", tokens=max(4, row.tokens // 2)) for row in plain]
    found = measure_policies(
        problems, {"m": {"none": without_policy(plain, {}), "half": half}}, make.settings(samples=2)
    )
    assert [(row["task"], row["n_problems"]) for row in found["rows"] if row["policy"] == "half"] == [
        ("all", 60),
        ("chain_sum", 30),
        ("count_bits", 30),
    ]
    whole, first, second = (row["tokens"] for row in found["rows"] if row["policy"] == "half")
    assert whole == pytest.approx((first + second) / 2)
    assert found["rows"][0]["price"] is None


def test_missing_answers_are_refused(asked, make):
    problems, models = asked
    models["sft"]["half"] = models["sft"]["half"][1:]
    with pytest.raises(DataError, match="sft, half"):
        part((problems, models), make)


def test_tables_are_sorted_by_tokens_below_no_policy(asked, make):
    results = {"policies": json.loads(json.dumps(part(asked, make), allow_nan=False))}
    (block,) = policy_table.blocks(results)
    header, lines = policy_table.cells(block)
    assert [line[0] for line in lines] == ["no policy", "careless", "half", "shy", "probed"]
    assert lines[2][header.index("what it shows")] == "**saves tokens, not less often right**"
    assert lines[3][header.index("right if answered, %")] == "100.0"
    assert lines[4][header.index("probes and other")] == "5.0"
    text = policy_table.markdown(results)
    assert "sft: tokens saved at no significant loss of accuracy by half (" in text
    assert text.count("\n| ") == 1 + 1 + 5


def test_numbers_in_the_picture_do_not_touch():
    rng = np.random.default_rng(0)
    crowd = (rng.normal(size=(24, 2)) * 14 + (150, 120)).tolist()
    places = np.array(policy_plot.spread_out(crowd, (8, 340, 8, 300)))
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) + 1e9 * np.eye(24)
    assert apart.min() >= policy_plot.BADGE
    assert (places >= 8).all()
    assert (places <= (340, 300)).all()
