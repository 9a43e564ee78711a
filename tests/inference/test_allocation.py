"""Allocation by difficulty, cost of a pass, saturation."""

import asyncio
import json
import math
from pathlib import Path

import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.allocation import (
    ComputeOptimal,
    Trial,
    best_choices,
    cost_of_pass,
    difficulty_bin,
    disagreement,
    frontier,
    quantile_edges,
    saturation_point,
)
from laconic.inference.policies.base import sample_seed
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
PROBES = 500_000
SAMPLE = {sample_seed(0, number): number for number in (*range(10), *range(PROBES, PROBES + 10))}
"""Seeds of a question with seed 0, by the number of the sample."""
TABLE = ({"policy": "plain"}, {"policy": "best_of_n", "parameters": {"samples": 2}})


async def scorer(prompt, texts):
    return [float(text.split()[-1]) / 10 for text in texts]


def play(policy, said, *, with_scorer=True, max_tokens=10):
    """`said`: the trace for each sample number."""
    starts = []

    def script(context):
        if not context.text:
            starts.append((SAMPLE[context.seed], context.role))
        return [f" {word}" for word in said(SAMPLE[context.seed]).split()[len(context.text.split()) :]]

    engine = ScriptedEngine(script)
    ask = Ask(engine, "q", Ledger(), sampling=Sampling(max_tokens=max_tokens), scorer=scorer if with_scorer else None)
    ask.extract = lambda text: text.split()[-1] if text.split() else None
    answer = asyncio.run(run_policy(policy, ask))
    assert answer.ledger.generated == engine.emitted
    assert not engine.open_branches
    return answer, starts


def table(answer):
    rows = answer.ledger.by_role_and_fate()
    return {role: tuple(row.values()) for role, row in rows.items() if any(row.values())}


def test_cost_of_pass_golden():
    entry = GOLDEN["costofpass.basic"]
    costs = {name: cost_of_pass(records) for name, records in entry["input"].items()}
    assert costs == pytest.approx({name: float(value) for name, value in entry["output"].items()}, abs=1e-9)
    assert frontier(costs.values()) == pytest.approx(0.0266666667)
    assert frontier(costs.values(), human=0.01) == 0.01
    assert frontier([], human=2.0) == 2.0
    with pytest.raises(RecipeError):
        cost_of_pass([])


@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("gain", [0.3, 0.125, 0.01, 0.001])
@pytest.mark.parametrize("ceiling", [1.0, 0.6])
def test_saturation_point_is_the_first_sample_that_no_longer_pays(p, gain, ceiling):
    added = (ceiling * p * (1 - p) ** number for number in range(10_000))
    expected = next(number for number, more in enumerate(added) if more <= gain * (1 + 1e-9))
    assert saturation_point(p, gain, ceiling=ceiling) == expected


@pytest.mark.parametrize("wrong", [(0.0, 0.1, 1.0), (0.5, 0.0, 1.0), (0.5, 0.1, 1.1), (1.1, 0.1, 1.0)])
def test_saturation_point_refuses_what_is_no_share(wrong):
    p, gain, ceiling = wrong
    with pytest.raises(RecipeError):
        saturation_point(p, gain, ceiling=ceiling)


def test_bins_begin_at_their_edge():
    assert [difficulty_bin(value, [0.25, 0.5]) for value in (0.0, 0.2499, 0.25, 0.4, 0.5, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert difficulty_bin(0.9, []) == 0


def test_quantile_edges_part_questions_evenly():
    difficulties = [number / 99 for number in range(100)]
    edges = quantile_edges(difficulties)
    counts = [0] * 5
    for value in difficulties:
        counts[difficulty_bin(value, edges)] += 1
    assert counts == [20] * 5
    with pytest.raises(RecipeError):
        quantile_edges(difficulties, bins=1)


def test_disagreement_counts_unread_answers_against_agreement():
    assert disagreement(["7", "7", "7", "7"]) == 0.0
    assert disagreement(["7", None, "7", "8"]) == 0.5
    assert disagreement([None, None]) == 1.0
    assert disagreement(["a", "A"], equal=lambda one, other: one.lower() == other.lower()) == 0.0


def test_best_choices_are_the_most_accurate_within_the_cost():
    trials = [
        Trial(0, "plain", 0.9, 100),
        Trial(0, "vote", 0.9, 400),
        Trial(1, "vote", 0.6, 400),
        Trial(1, "plain", 0.3, 100),
        Trial(1, "beam", 0.7, 401),
        Trial(2, "beam", 0.9, 900),
    ]
    assert best_choices(trials, tokens=400) == {0: "plain", 1: "vote"}
    assert best_choices(reversed(trials)) == {0: "plain", 1: "beam", 2: "beam"}
    assert math.isinf(best_choices.__kwdefaults__["tokens"])


def test_unanimous_probes_choose_the_easy_policy():
    answer, starts = play(ComputeOptimal(table=TABLE), lambda seed: "<think> a </think> 7")
    assert starts == [*((PROBES + number, "probe") for number in range(4)), (0, "think")]
    assert (answer.answer, answer.finish) == ("7", "stop")
    assert (answer.notes["difficulty"], answer.notes["bin"], answer.notes["policy"]) == (0.0, 0, "plain")
    assert table(answer) == {"think": (3, 0, 0), "answer": (2, 0, 0), "probe": (0, 0, 20)}
    assert answer.ledger.critical_path == 10


def test_half_of_the_probes_agreeing_is_hard_at_an_edge_of_one_half():
    said = {PROBES: "7", PROBES + 1: "7", PROBES + 2: "8", PROBES + 3: "9", 0: "5", 1: "6"}
    answer, _ = play(ComputeOptimal(table=TABLE), said.__getitem__)
    assert (answer.answer, answer.notes["bin"], answer.notes["scores"]) == ("6", 1, [0.5, 0.6])
    assert table(answer) == {"answer": (2, 2, 0), "probe": (0, 0, 8)}


def test_probes_cut_short_agree_with_nothing():
    answer, _ = play(ComputeOptimal(table=TABLE, probe_tokens=1), lambda seed: "7")
    assert answer.notes["difficulty"] == 1.0
    assert table(answer)["probe"] == (0, 0, 4)


def test_a_given_difficulty_needs_no_probes():
    rows = (TABLE[0], TABLE[1], TABLE[0])
    policy = ComputeOptimal(table=rows, edges=(0.2, 0.8), difficulty=lambda prompt: len(prompt) / 5)
    answer, starts = play(policy, lambda seed: "7")
    assert answer.notes["bin"] == 1
    assert starts == [(0, "think"), (1, "think")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": TABLE, "edges": ()},
        {"table": [*TABLE, TABLE[0]], "edges": (0.6, 0.5)},
        {"table": TABLE, "probes": 0},
        {"table": TABLE, "probe_tokens": 0},
        {"table": [{"policy": "plain"}, {"parameters": {}}]},
        {"table": [{"policy": "plain"}, {"policy": "none_such"}]},
    ],
)
def test_tables_that_cannot_work_are_refused(wrong):
    with pytest.raises(RecipeError):
        ComputeOptimal(**wrong)


def test_every_row_is_checked_before_the_first_token():
    with pytest.raises(LaunchError, match="needs a scorer"):
        play(ComputeOptimal(table=TABLE), lambda seed: "7", with_scorer=False)


def test_the_default_table_can_be_built():
    assert [row["policy"] for row in ComputeOptimal().table] == ["plain", "self_consistency"]
