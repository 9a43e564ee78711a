"""Rollouts files as people have them: other encodings, pipes, odd numbers, steps and prompts that do not agree."""

import codecs
import gzip
import json
import os
import threading

import numpy as np
import pytest

from laconic.rewards.errors import DataError
from laconic.rewards.jsonl import read_jsonl
from laconic.rewards.rollouts_file import read_file
from laconic.rewards.score import Chosen, arrange, score_one

ROW = {"prompt_id": "p", "correct": True, "length": 100}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rollouts.jsonl"


def write(path, rows):
    path.write_text("".join(f"{json.dumps(item)}\n" for item in rows))


def table_of(path, rows, *names):
    write(path, rows)
    return arrange(read_file(path), [Chosen(name) for name in names])


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(path)
    return caught.value.message


def line(text):
    return f'{{"prompt_id": "p", "correct": true, "length": {text}}}\n'.encode()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (line(1) + '{"prompt_id": "é"}\n'.encode("latin-1"), "rollouts.jsonl:2: not UTF-8 (byte 0xe9 at 15)"),
        (line(1).decode().encode("utf-16"), "rollouts.jsonl:1: not UTF-8 (byte 0xff at 0)"),
        (gzip.compress(line(1), mtime=0), "rollouts.jsonl: is compressed"),
        (line(1) + line("[" * 100_000), "rollouts.jsonl:2: nested too deeply"),
        (line("7" * 5000), "rollouts.jsonl:1: a number with too many digits"),
    ],
    ids=["latin-1", "utf-16", "gzip", "deep", "digits"],
)
def test_what_cannot_be_read_is_said_with_its_line(path, content, what):
    assert what in refused(path, content)


def test_a_folder_is_not_called_missing(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_file(tmp_path)


def test_a_byte_order_mark_is_skipped(path):
    path.write_bytes(codecs.BOM_UTF8 + line(5) + line(6))
    assert [row.values["length"] for row in read_file(path).rows] == [5, 6]
    assert [row["length"] for row in read_jsonl(path)] == [5, 6]


def test_a_pipe_is_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(line(5) + b"\n" + line(6),))
    writer.start()
    assert [(row.line, row.values["length"]) for row in read_file(pipe).rows] == [(1, 5), (3, 6)]
    writer.join()


@pytest.mark.parametrize("without", [0, 1, 2])
@pytest.mark.parametrize("nothing", [{}, {"step": None}])
def test_steps_stand_in_every_row_or_in_none(path, without, nothing):
    rows = [ROW | ({} if at != without else nothing) | ({"step": 0} if at != without else {}) for at in range(3)]
    with pytest.raises(DataError) as caught:
        table_of(path, rows, "accuracy")
    assert f"{path}:{without + 1}: step is None" in caught.value.message
    assert "in every row or in none" in caught.value.cure


def test_a_file_whose_steps_are_all_null_knows_none(path):
    table = table_of(path, [ROW | {"step": None}] * 2, "hapo")
    assert table.file.steps is None
    assert len(table.batches) == 1
    assert "step" in table.notes[0]


def test_a_step_is_a_number_that_somebody_can_count_to(path):
    with pytest.raises(DataError, match="step is 1000"):
        table_of(path, [ROW | {"step": 10**400}], "accuracy")


def test_a_number_and_a_text_are_not_the_same_prompt(path):
    rows = [ROW | {"prompt_id": prompt} for prompt in (1, 2, "2")]
    with pytest.raises(DataError) as caught:
        table_of(path, rows, "accuracy")
    assert caught.value.message == f"{path}:3: prompt_id is '2' here and 2 in line 2"
    assert len(table_of(path, rows[:2], "accuracy").batches[0].groups) == 2
    assert len(table_of(path, [*rows[:1], *rows[2:]], "accuracy").batches[0].groups) == 2


def test_half_a_letter_is_no_prompt(path):
    with pytest.raises(DataError, match=r"prompt_id is '\\ud83d'"):
        table_of(path, [ROW | {"prompt_id": "\ud83d"}], "accuracy")


@pytest.mark.parametrize(
    ("columns", "reward", "said"),
    [
        ({"num_tokens": 900}, "l1_exact", "budget is read from num_tokens"),
        ({"truncated": False}, "dler", "finished is read from truncated"),
        ({"queries": ["a"]}, "mash", "searches is read from queries"),
        ({"meta": {"query_num": 2}}, "mash", "searches is read from query_num"),
    ],
)
def test_a_column_that_is_read_from_another_key_is_said(path, columns, reward, said):
    rows = [{"finished": True} | ROW | columns] * 2
    if "truncated" in columns:
        rows = [ROW | columns] * 2
    assert said in table_of(path, rows, reward).notes[0].split(", ")
    assert not any("is read from" in note for note in table_of(path, [ROW | {"finished": True}], "accuracy").notes)


def test_keys_that_only_some_rows_use_are_said_too(path):
    rows = [ROW | {"finished": True}, {"problem_id": "p", "correct": True, "tokens": 5, "finish_reason": "stop"}]
    (note,) = table_of(path, rows, "accuracy").notes
    assert note == (
        "prompt_id is read from problem_id, length is read from tokens, finished is read from finish_reason"
    )


def test_lengths_are_not_taken_for_budgets(path):
    rows = [ROW | {"length": length, "num_tokens": length} for length in (300, 800)]
    with pytest.raises(DataError, match="num_tokens would be read as the budget and is the length in every row"):
        table_of(path, rows, "l1_exact")
    assert table_of(path, rows, "shorter_better").batches[0].groups[0].budget is None
    table = table_of(path, [ROW | {"length": 300, "num_tokens": 800}, rows[1]], "l1_exact")
    np.testing.assert_array_equal(table.batches[0].groups[0].budget, [800, 800])
    own = [{**row, "budget": row["length"]} for row in rows]
    table = table_of(path, own, "l1_exact")
    np.testing.assert_array_equal(score_one(table, table.chosen[0]).rewards[0], [1.0, 1.0])
