"""Parameters are checked against the annotations, whatever a recipe or a command line gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal

import numpy as np
import pytest

from laconic.inference.policies import POLICIES
from laconic.inference.policies.base import find
from laconic.inference.policies.parameters import _hints, fits, legal
from laconic.rewards.errors import RecipeError


def test_a_value_fits_what_its_annotation_says_and_nothing_else():
    right = [
        (3, int), (np.int64(3), int), (3, float), (math.inf, float), (np.float32(0.5), float), (True, bool),
        ("a", str), (None, int | None), (3, int | None), ("x", Literal["x", "y"]), (["a"], Sequence[str]),
        (("a", "b"), tuple[str, ...]), ([1, 2.5], Sequence[float]), ([], tuple[int, ...]),
        ({"a": 1}, Mapping[str, float]),
        ([{"policy": "plain"}], Sequence[Mapping[str, Any]]),
    ]  # fmt: skip
    wrong = [
        (3.0, int), ("3", int), (True, int), (None, int), (True, float), ("0.5", float), (1, bool), ("true", bool),
        (1, str), ("a", int | None), ("z", Literal["x", "y"]), (1, Literal["x"]), ("abc", Sequence[str]),
        ([1], Sequence[str]), ({"a": "b"}, Mapping[str, float]), ([1], Mapping[str, Any]), (3, Sequence[float]),
        (["plain"], Sequence[Mapping[str, Any]]),
    ]  # fmt: skip
    assert [(value, hint) for value, hint in right if not fits(value, hint)] == []
    assert [(value, hint) for value, hint in wrong if fits(value, hint)] == []


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_default_fits_its_annotation_and_every_annotation_can_be_said(name):
    hints = _hints(POLICIES[name].policy)
    for item in fields(POLICIES[name].policy):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        assert default is MISSING or fits(default, hints[item.name]), item.name
        assert not any(sign in legal(hints[item.name]) for sign in "[]<>|"), item.name


class Wrong:
    """Nothing that a policy could want."""


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_wrong_type_is_refused_for_every_parameter_and_never_reaches_the_policy(name):
    for key in POLICIES[name].parameters:
        for value in (Wrong(), [Wrong()]):
            with pytest.raises(RecipeError, match=rf"policy {name}: {key} is \[?<"):
                find(name).build({key: value})


@pytest.mark.parametrize(
    ("name", "given", "says", "cure"),
    [
        ("short_mk", {"m": "three"}, "policy short_mk: m is 'three'", "make it a whole number (default 3)"),
        ("short_mk", {"compare": "size"}, "compare is 'size'", "make it auto, time or length (default 'auto')"),
        ("best_of_mini_n", {"abstain": "yes"}, "abstain is 'yes'", "make it true or false (default True)"),
        ("think_budget", {"maximum": 1.5}, "maximum is 1.5", "make it a whole number or null (default None)"),
        ("think_budget", {"switches": "Wait"}, "switches is 'Wait'", "make it a list of texts (default ('Wait',))"),
        ("hybrid_router", {"router": "x"}, "router is 'x'", "make it a function (from Python only) or null"),
        ("compute_optimal", {"table": ["plain"]}, "table is ['plain']", "make it a list of mappings"),
        ("difficulty_probe", {"easy": {"sufix": "x"}}, "easy is {'sufix': 'x'}", "suffix (text), temperature ("),
        ("end_of_think_boost", {}, "boost has no value", "give boost, a number"),
        ("plain", {"k": 3}, "unknown parameter 'k'", "its parameters are (none)"),
    ],
)  # fmt: skip
def test_the_message_names_policy_parameter_value_and_what_is_legal(name, given, says, cure):
    with pytest.raises(RecipeError) as caught:
        find(name).build(given)
    assert says in caught.value.message
    assert caught.value.message.startswith(f"policy {name}: ")
    assert cure in caught.value.cure


def test_a_mapping_stands_for_a_strategy():
    built = find("difficulty_probe").build({"easy": {"budget": 0.5, "temperature": None}})
    assert (built.easy.budget, built.easy.temperature) == (0.5, None)
