"""Naming policies: what a person types is what runs, and what goes back into a file is the same again."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from laconic.inference.policies import POLICIES
from laconic.inference.policies.choose import Choice, choice_of, parse_choice
from laconic.rewards.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "name", "parameters", "label"),
    [
        ("plain", "plain", {}, "plain"),
        ("short_mk:k=8,m=3", "short_mk", {"k": 8, "m": 3}, "short_mk:k=8,m=3"),
        ("five votes=self_consistency:samples=5", "self_consistency", {"samples": 5}, "five votes"),
        (
            "think_budget:maximum=30,transition=' so, then'",
            "think_budget",
            {"maximum": 30, "transition": " so, then"},
            "think_budget:maximum=30,transition=' so, then'",
        ),
        (
            "answer_consistency:at=[wait, but],suffix=''",
            "answer_consistency",
            {"at": ["wait", "but"], "suffix": ""},
            "answer_consistency:at=[wait, but],suffix=''",
        ),
    ],
    ids=["bare", "two", "label", "quoted comma", "list"],
)
def test_the_command_line_form_is_read(text, name, parameters, label):
    assert parse_choice(text) == Choice(name, parameters, label)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shortmk", "did you mean short_mk"),
        ("short_mk:kk=3", "did you mean k"),
        ("short_mk:k", "'k' is not key=value"),
        ("short_mk:k=[1", "cannot be read"),
        ("short_mk:k=0", "k"),
        ("", "unknown policy ''"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(RecipeError, match=says.replace("[", r"\[")):
        parse_choice(text)


def test_a_recipe_entry_and_its_text_are_one():
    entry = {"name": "short_mk", "label": "three of eight", "k": 8, "m": 3}
    found = choice_of(entry)
    assert found.to_json() == entry
    assert choice_of(found) is found
    assert parse_choice(f"three of eight={found}") == found


def test_an_entry_without_a_name_is_refused():
    with pytest.raises(RecipeError, match="without a name"):
        choice_of({"k": 3})


def test_what_is_built_has_the_parameters():
    built = parse_choice("short_mk:k=5,m=2").build()
    assert (type(built), built.k, built.m) == (POLICIES["short_mk"].policy, 5, 2)


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30))
@example("0,")
@example("wait, what")
def test_any_text_survives_the_way_to_the_command_line_and_back(text):
    choice = Choice("think_budget", {"maximum": 30, "transition": text})
    assert parse_choice(str(choice)).parameters == choice.parameters
