from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laconic.recipes.yaml_text import dump_yaml, load_yaml
from laconic.rewards.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0x1f", 31),
        ("no", "no"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        ("e5", "e5"),
        ("'1e-6'", "1e-6"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    data, _ = load_yaml(f"key: {text}", label="x")
    assert data["key"] == value
    assert type(data["key"]) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_1.e-", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_written_is_read_back(data):
    assert load_yaml(dump_yaml(data), label="x")[0] == data


def test_every_value_has_its_line():
    _, lines = load_yaml("a: 1\nb:\n  - x: 1\n    y: {z: 2}\n  - 5\n", label="x")
    assert lines[("a",)] == 1
    assert lines[("b",)] == 2
    assert lines[("b", 0, "x")] == 3
    assert lines[("b", 0, "y", "z")] == 4
    assert lines[("b", 1)] == 5


def test_merged_mappings_keep_the_line_where_they_were_written():
    data, lines = load_yaml("one: &one {a: 1}\ntwo:\n  <<: *one\n  b: 2\n", label="x")
    assert data["two"] == {"a": 1, "b": 2}
    assert lines[("two", "a")] == 1
    assert lines[("two", "b")] == 4


def test_duplicate_key_names_both_lines():
    with pytest.raises(RecipeError, match=r"r\.yaml:4: the key 'b' stands already in line 2"):
        load_yaml("a:\n  b: 1\n  c: 2\n  b: 3\n", label="r.yaml")


def test_same_key_in_two_mappings_is_fine():
    assert load_yaml("a: {b: 1}\nc: {b: 2}", label="x")[0] == {"a": {"b": 1}, "c": {"b": 2}}


def test_syntax_error_names_the_line():
    with pytest.raises(RecipeError, match=r"^r\.yaml:3: not YAML"):
        load_yaml("a: 1\nb: [1, 2\nc: 3\n", label="r.yaml")


def test_alias_of_itself_is_refused():
    with pytest.raises(RecipeError, match="contains itself"):
        load_yaml("a: &a [*a]", label="x")


def test_unknown_tag_is_refused_and_nothing_is_run():
    with pytest.raises(RecipeError, match="not YAML"):
        load_yaml("a: !!python/object/apply:os.getcwd []", label="x")
