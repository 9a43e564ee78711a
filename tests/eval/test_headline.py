"""The opening sentence never claims more than the test showed."""

import pytest

from laconic.eval.headline import headline


def results(d, d_ci, *, ratio=0.52, ratio_ci=(0.5, 0.54), non_inferior=True, margin=0.01, problems=400):
    row = {"eval": "eval", "model": "sft", "task": "t", "n_problems": problems, "accuracy": 0.7, "tokens": 48.0}
    pair = {"eval": "eval", "task": "t", "model": "grpo", "baseline": "sft", "d_accuracy": d, "d_accuracy_ci": d_ci}
    pair |= {"token_ratio": ratio, "token_ratio_ci": ratio_ci, "non_inferior": non_inferior, "margin": margin}
    return {"rows": [row], "paired": [pair]}


def test_a_gain():
    said = headline(results(0.068, (0.04, 0.096)))
    assert said.verdict == "gained"
    assert said.sentence == (
        "grpo uses 52 % of sft's tokens (95 % CI 50 to 54 %); "
        "accuracy +6.8 points (95 % CI +4.0 to +9.6): more often right."
    )


@pytest.mark.parametrize(
    ("d", "d_ci", "non_inferior", "verdict", "words"),
    [
        (0.003, (-0.006, 0.012), True, "held", "not lower, within the margin of 1 point"),
        (-0.004, (-0.009, 0.001), True, "held", "not lower, within the margin"),
        (0.003, (-0.03, 0.036), False, "open", "a loss of more than 1 point is not ruled out"),
        (-0.03, (-0.07, 0.01), False, "open", "not ruled out"),
        (-0.06, (-0.09, -0.03), False, "lost", "accuracy −6.0 points (95 % CI −9.0 to −3.0): less often right"),
    ],
)
def test_wording_follows_the_test(d, d_ci, non_inferior, verdict, words):
    said = headline(results(d, d_ci, non_inferior=non_inferior))
    assert said.verdict == verdict
    assert words in said.sentence


def test_lengths_that_do_not_differ_are_not_called_a_saving():
    said = headline(results(0.0, (-0.005, 0.005), ratio=0.98, ratio_ci=(0.95, 1.01)))
    assert "about as many tokens as sft (98 %, 95 % CI 95 to 101 %)" in said.sentence


def test_few_problems_are_named_as_such():
    assert headline(results(0.1, (0.05, 0.15))).caveat is None
    assert "Only 16 problems" in headline(results(0.1, (0.05, 0.15), problems=16)).caveat


def test_nothing_to_compare():
    alone = results(0, (0, 0)) | {"paired": []}
    assert headline(alone).sentence == "sft is right 70.0 % of the time at 48.0 tokens. Nothing was compared."
