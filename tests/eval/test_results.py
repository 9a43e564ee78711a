"""results.json from rollouts: its keys, its numbers, its pairing, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from laconic.eval.results import build_results
from laconic.eval.samples import collect, scorable
from laconic.eval.table import markdown_table
from laconic.rewards.errors import DataError

ROW_KEYS = {
    *("eval", "model", "policy", "task", "n_problems", "n_samples", "accuracy", "accuracy_se", "tokens", "tokens_se"),
    *("truncated", "unparsable", "accuracy_finished", "think_tokens", "answer_tokens", "tokens_median", "tokens_p90"),
    *("tokens_correct", "tokens_wrong", "tokens_per_correct", "pass_at_k", "maj_at_k", "tokens_at_k"),
    *("accuracy_at_budget", "budget_area", "budget_limit", "pareto", "pareto_frequency"),
}
PAIR_KEYS = {
    *("eval", "model", "baseline", "task", "d_accuracy", "d_accuracy_ci", "d_accuracy_se", "p_value", "p_holm"),
    *("token_ratio", "token_ratio_ci", "margin", "non_inferior", "non_inferiority_bound", "non_inferiority_p"),
    *("aes", "aes_ci", "aes_coefficients", "d_budget_area", "d_budget_area_ci"),
}


@pytest.fixture
def built(make):
    problems = make.problems(120)
    models = make.models(problems)
    return problems, models, build_results(problems, models, make.settings(), provenance=make.facts)


def test_layout_survives_json(built):
    results = built[2]
    assert set(results) == {"rows", "paired", "frontier", "provenance"}
    assert all(set(row) == ROW_KEYS for row in results["rows"])
    assert all(set(pair) == PAIR_KEYS for pair in results["paired"])
    text = json.dumps(results, allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_rows_are_what_the_rollouts_say(built):
    problems, models, results = built
    assert [row["model"] for row in results["rows"]] == ["sft", "dpo", "grpo"]
    for row in results["rows"]:
        rollouts = models[row["model"]]
        assert (row["n_problems"], row["n_samples"], row["policy"]) == (120, 4, "none")
        assert row["accuracy"] == pytest.approx(np.mean([r.correct for r in rollouts]))
        assert row["tokens"] == pytest.approx(np.mean([r.tokens for r in rollouts]))
        assert row["pass_at_k"]["1"] == pytest.approx(row["accuracy"])
        assert row["accuracy_at_budget"]["256"] == pytest.approx(row["accuracy"])
        solved = {r.problem_id for r in rollouts if r.correct}
        assert row["pass_at_k"]["4"] == pytest.approx(len(solved) / len(problems))


def test_pairs_agree_with_the_rows_and_enclose_themselves(built):
    results = built[2]
    rows = {row["model"]: row for row in results["rows"]}
    for pair in results["paired"]:
        new, base = rows[pair["model"]], rows["sft"]
        assert pair["baseline"] == "sft"
        assert pair["d_accuracy"] == pytest.approx(new["accuracy"] - base["accuracy"])
        assert pair["token_ratio"] == pytest.approx(new["tokens"] / base["tokens"])
        for key in ("d_accuracy", "token_ratio", "aes", "d_budget_area"):
            low, high = pair[f"{key}_ci"]
            assert low < pair[key] < high
        assert pair["aes_coefficients"] == {"alpha": 1.0, "beta": 3.0, "gamma": 5.0}
        assert pair["p_holm"] >= pair["p_value"]
        assert pair["non_inferior"] == (pair["non_inferiority_bound"] > -0.01)
        # What holds for every number of problems asks for more than the normal bound of many.
        assert pair["non_inferiority_bound"] < pair["d_accuracy"] - 1.645 * pair["d_accuracy_se"]
    assert results["paired"][1]["token_ratio_ci"][1] < 0.6


def test_pairing_by_question_beats_treating_models_as_independent(built):
    pair, rows = built[2]["paired"][1], {row["model"]: row for row in built[2]["rows"]}
    assert pair["d_accuracy_se"] < 0.9 * np.hypot(rows["sft"]["accuracy_se"], rows["grpo"]["accuracy_se"])


def test_a_model_against_its_own_rollouts_differs_in_nothing(make):
    problems = make.problems(40)
    rows = make.rollouts(problems)
    pair = build_results(problems, {"sft": rows, "twin": rows}, make.settings(), provenance={})["paired"][0]
    assert (pair["d_accuracy"], pair["token_ratio"], pair["aes"]) == (0.0, 1.0, 0.0)
    low, high = pair["d_accuracy_ci"]
    # 40 problems without a difference do not show that there is none.
    assert -0.3 < low < -0.1
    assert low == pytest.approx(-high)
    assert pair["non_inferior"] is False
    assert pair["token_ratio_ci"] == (1.0, 1.0)
    assert pair["p_value"] == 1.0


def test_order_of_rollouts_does_not_matter(built, make):
    problems, models, results = built
    shuffled = {name: list(np.random.default_rng(0).permutation(np.array(rows))) for name, rows in models.items()}
    assert build_results(problems, shuffled, make.settings(), provenance=make.facts) == results


def test_several_tasks_get_a_row_each_and_one_for_all(make):
    problems = make.problems(60, tasks=("gcd", "lcm", "chain_sum"))
    models = make.models(problems)
    results = build_results(problems, models, make.settings(), provenance={})
    assert [row["task"] for row in results["rows"]] == [t for t in ("all", "chain_sum", "gcd", "lcm") for _ in range(3)]
    assert [front["task"] for front in results["frontier"]] == ["all", "chain_sum", "gcd", "lcm"]
    by_task = [row for row in results["rows"] if row["model"] == "sft"]
    assert by_task[0]["tokens"] == pytest.approx(np.mean([row["tokens"] for row in by_task[1:]]))
    gcd = [row.correct for row in models["sft"] if row.task == "gcd"]
    assert by_task[2]["accuracy"] == pytest.approx(np.mean(gcd))


def test_holm_families_are_the_headline_and_the_tasks(make):
    problems = make.problems(60, tasks=("gcd", "lcm"))
    pairs = build_results(problems, make.models(problems), make.settings(), provenance={})["paired"]
    smallest = min(pairs[2:], key=lambda pair: pair["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 4 * smallest["p_value"]))
    smallest = min(pairs[:2], key=lambda pair: pair["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 2 * smallest["p_value"]))


def test_a_model_that_is_never_right_has_no_price_and_no_score(make):
    problems = make.problems(30)
    wrong = [replace(row, correct=False, answer="x") for row in make.rollouts(problems)]
    models = {"sft": wrong, "grpo": make.rollouts(problems, seed=3)}
    results = build_results(problems, models, make.settings(), provenance={})
    assert results["rows"][0]["tokens_per_correct"] is None
    assert results["rows"][0]["tokens_correct"] is None
    assert results["paired"][0]["aes"] is None
    assert results["paired"][0]["aes_ci"] is None
    json.dumps(results, allow_nan=False)


def test_problems_without_verdict_are_left_out_for_every_model(make):
    problems = make.problems(50)
    models = make.models(problems)
    bad = problems[7].id
    models["dpo"] = [replace(row, correct=None) if row.problem_id == bad else row for row in models["dpo"]]
    results = build_results(problems, models, make.settings(), provenance={})
    assert {row["n_problems"] for row in results["rows"]} == {49}
    assert results["provenance"]["unscorable_problems"] == 1
    assert bad not in [problem.id for problem in scorable(problems, models)]


def test_truncated_and_unparsable_are_counted_apart(make):
    problems = make.problems(40)
    rows = make.rollouts(problems, limit=50)
    rows = [replace(row, answer=None, correct=False) if row.sample == 0 else row for row in rows]
    row = build_results(problems, {"sft": rows}, make.settings(), provenance={})["rows"][0]
    finished = [r.finished for r in rows]
    assert 0 < row["truncated"] < row["unparsable"] < 1
    assert row["truncated"] == pytest.approx(1 - np.mean(finished))
    assert row["accuracy_finished"] == pytest.approx(np.mean([r.correct for r in rows if r.finished]))


def test_missing_and_doubled_samples_are_refused(make):
    problems = make.problems(5)
    rows = make.rollouts(problems)
    with pytest.raises(DataError, match="chain_sum-1' has no sample 3"):
        collect(rows[:7] + rows[8:], problems, samples=4, source="sft")
    with pytest.raises(DataError, match="chain_sum-0' has sample 2 twice"):
        collect([*rows, rows[2]], problems, samples=4, source="sft")
    with pytest.raises(DataError, match="no problem that can be scored"):
        collect([], [], samples=4, source="sft")


def test_votes_join_spellings_and_the_verifier_joins_right_answers(make):
    problem = make.problems(1)
    rows = make.rollouts(problem, samples=6)
    answers = [("1/2", True), ("0.5", True), ("x  Y", False), ("X y", False), ("z", False), (None, False)]
    rows = [replace(row, answer=a, correct=c) for row, (a, c) in zip(rows, answers, strict=True)]
    assert collect(rows, problem, samples=6, source="m").votes.tolist() == [[0, 0, 1, 1, 2, -1]]


def test_clusters_widen_the_error(make):
    problems = make.problems(60)
    paired = [replace(problem, meta={"cluster": place // 10}) for place, problem in enumerate(problems)]
    rows = make.rollouts(problems)
    hard = {problem.id for place, problem in enumerate(problems) if place // 10 < 3}
    rows = [replace(row, correct=row.problem_id not in hard) for row in rows]
    single, clustered = (
        build_results(chosen, {"sft": rows}, make.settings(), provenance={})["rows"][0] for chosen in (problems, paired)
    )
    assert clustered["accuracy_se"] > 2 * single["accuracy_se"]


def test_markdown_table(built):
    table = markdown_table(json.loads(json.dumps(built[2])))
    lines = table.splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    row = built[2]["rows"][2]
    assert f"| grpo | {100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f} |" in table
    assert "tokens vs sft" in lines[0]
    assert "120 held-out problems, 4 samples each (temperature 1, top_p 1, max_tokens 256)" in lines[-1]
    assert "alpha = 1, beta = 3, gamma = 5" in lines[-1]
