"""The injected judge: what can be read, how many are asked at once, how one is named."""

import asyncio
import json
import re
import sys

import pytest

from laconic.rewards import REWARDS, Group
from laconic.rewards.errors import LaunchError, RecipeError
from laconic.rewards.judge import Judged, answers, load_judge, number, verdicts

OUT_OF_TEN = Judged(column="judgement", asks="How good?", parse=lambda answer: number(answer, 1, 10))


def ask(judge, rows, **options):
    return asyncio.run(verdicts(judge, OUT_OF_TEN, rows, **options))


@pytest.mark.parametrize("answer", [7, 7.0, "7", " 7\n"])
def test_a_number_is_read(answer):
    assert number(answer, 1, 10) == 7.0


@pytest.mark.parametrize(
    "answer", ["Score: 7", "7/10", "", None, True, 0, 11, "11", "nan", "inf", float("nan"), [7], {"score": 7}, 10**400]
)
def test_what_is_no_number_in_range_is_none(answer):
    assert number(answer, 1, 10) is None


@pytest.mark.parametrize("answer", ["inf", "-inf", "nan", float("inf"), "1e999"])
def test_only_finite_numbers_are_read_without_a_range(answer):
    assert number(answer) is None


def test_verdicts_come_in_the_order_of_the_rows():
    async def judge(row):
        # The first rows answer last.
        await asyncio.sleep(0.001 * (5 - row["place"]))
        return row["answer"]

    answers = [3, "cannot say", 10, None, 12]
    rows = [{"place": place, "answer": answer} for place, answer in enumerate(answers)]
    assert ask(judge, rows) == [3.0, None, 10.0, None, None]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_no_more_than_the_limit_are_asked_at_once(concurrency):
    running = most = 0

    async def judge(row):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 5

    assert ask(judge, [{}] * 20, concurrency=concurrency) == [5.0] * 20
    assert most == min(concurrency, 20)


def test_a_judge_that_fails_is_named_with_its_row_and_its_line():
    async def judge(row):
        if row["place"] == 2:
            raise ConnectionError("no answer")
        return 5

    with pytest.raises(LaunchError) as caught:
        ask(judge, [{"place": place} for place in range(4)])
    said = caught.value.message
    assert f"{__name__}:" in said
    assert "judge failed on rollout 3 of 4: ConnectionError: no answer" in said
    assert re.search(r"test_judge\.py:\d+\)$", said)
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_rows_are_called_by_their_names_where_they_have_some():
    with pytest.raises(LaunchError, match=r"failed on rollouts\.jsonl:7: TypeError"):
        asyncio.run(answers(lambda: 5, [{}], names=["rollouts.jsonl:7"]))


class Patient:
    """A judge with a memory."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, row):
        self.asked += 1
        return self.asked


def test_a_judge_may_be_a_plain_function_or_an_object():
    assert ask(lambda row: row["answer"], [{"answer": 3}, {"answer": "no"}]) == [3.0, None]
    assert ask(Patient(), [{}, {}, {}]) == [1.0, 2.0, 3.0]


def test_no_rows_no_verdicts():
    async def judge(row):
        raise AssertionError("nobody to ask about")

    assert ask(judge, []) == []


def test_a_judge_is_found_by_name():
    assert load_judge("json:dumps") is json.dumps


@pytest.mark.parametrize(
    "place", ["no_such_module_at_all:judge", "json:no_such_function", "json", ":judge", "", ".json:dumps", "math:pi"]
)
def test_a_judge_that_cannot_be_found_is_named(place):
    with pytest.raises(RecipeError) as caught:
        load_judge(place)
    assert repr(place) in str(caught.value)
    assert "package.module:function" in str(caught.value)


def test_a_module_that_cannot_be_imported_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_a_judge.py").write_text("def verdict(row:\n")
    (tmp_path / "sorry_judge.py").write_text("raise OSError('no key')\n")
    for place, why in (("half_a_judge:verdict", "SyntaxError"), ("sorry_judge:verdict", "OSError: no key")):
        with pytest.raises(RecipeError, match=why):
            load_judge(place)
        sys.modules.pop(place.partition(":")[0], None)


def test_conciseness_abstains_from_a_verdict_that_cannot_be_read():
    registered = REWARDS["concise_rl"]

    async def judge(row):
        return row["says"]

    rows = [{"says": says} for says in ("8", "very concise", "50", "1")]
    read = asyncio.run(verdicts(judge, registered.judged, rows))
    assert read == [8.0, None, None, 1.0]
    group = Group.of([True] * 4, [100] * 4, **{registered.judged.column: read})
    rewards = registered(group)
    assert rewards[[0, 3]].tolist() == [0.8, 0.1]
    assert [reward != reward for reward in rewards] == [False, True, True, False]


def test_conciseness_counts_only_with_a_right_and_finished_answer():
    group = Group.of([True, True, False], [9, 9, 9], [True, False, True], judgement=[6, 6, 6])
    assert REWARDS["concise_rl"](group).tolist() == [0.6, 0.0, 0.0]
    assert REWARDS["concise_rl"](group, variant="ungated").tolist() == [1.6, 0.6, 0.6]


def test_conciseness_never_takes_a_number_off_the_scale_from_a_file():
    # The authors' server gives 5 where it cannot read a verdict; on their scale nothing is above 1.
    rewards = REWARDS["concise_rl"](Group.of([True, True], [9, 9], judgement=[50, 0]))
    assert [reward != reward for reward in rewards] == [True, True]
