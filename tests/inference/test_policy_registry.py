"""What holds for every policy by being registered, and what `run_policy` refuses before the first token."""

import ast
import asyncio
import doctest
import importlib
import inspect
import pkgutil
import textwrap
from itertools import pairwise

import pytest

import laconic.inference
import laconic.inference.policies
from laconic.inference.engine import Capability
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.base import find
from laconic.rewards.errors import LaunchError, RecipeError


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_says_what_it_is(name):
    registered = POLICIES[name]
    assert registered.summary.endswith(".")
    assert inspect.iscoroutinefunction(registered.policy.run)
    assert [key for key in registered.parameters if not described(registered.policy, key)] == []


def described(policy, key):
    """In the docstring of the class that the parameter comes from (or of one it narrows), or by a text below it."""
    owners = [base for base in policy.__mro__ if key in inspect.get_annotations(base)]
    return any(key in (inspect.getdoc(owner) or "") or has_text_below(owner, key) for owner in owners)


def has_text_below(owner, key):
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
    return any(
        isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        for field, after in pairwise(body)
        if isinstance(field, ast.AnnAssign) and field.target.id == key
    )


MODULES = [
    info.name
    for package in (laconic.inference, laconic.inference.policies)
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean self_consistency"):
        find("self_consistancy")
    with pytest.raises(RecipeError, match="did you mean samples"):
        POLICIES["self_consistency"].build({"sampels": 3})


def silent(context):
    raise AssertionError("nothing may be asked of the engine")


@pytest.mark.parametrize("name", sorted(name for name, item in POLICIES.items() if item.requires))
def test_a_missing_capability_is_named_before_the_first_token(name):
    registered = POLICIES[name]
    lacking = sorted(registered.requires)[0]
    engine = ScriptedEngine(silent, capabilities=set(Capability) - {lacking})
    policy = object.__new__(registered.policy)  # its parameters do not matter here
    ask = Ask(engine, "q", Ledger(), scorer=silent)
    with pytest.raises(LaunchError, match=lacking.value) as caught:
        asyncio.run(run_policy(policy, ask))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(name for name, item in POLICIES.items() if item.scorer))
def test_a_missing_scorer_is_named_before_the_first_token(name):
    policy = object.__new__(POLICIES[name].policy)
    with pytest.raises(LaunchError, match=f"policy {name} needs a scorer"):
        asyncio.run(run_policy(policy, Ask(ScriptedEngine(silent), "q", Ledger())))
