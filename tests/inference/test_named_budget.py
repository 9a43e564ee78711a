"""A policy that names a budget in the prompt, and does nothing else."""

import asyncio

import pytest

from laconic.inference.engine import Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.choose import parse_choice
from laconic.inference.policies.named_budget import NamedBudget
from laconic.rewards.errors import RecipeError


def asked(policy, prompt):
    """What the engine was prompted with, and the answer."""
    prompts = []

    def script(context):
        prompts.append(context.prompt)
        yield Token("7")
        yield EOS

    answer = asyncio.run(run_policy(policy, Ask(ScriptedEngine(script), prompt, Ledger())))
    return prompts[0], answer


def test_the_prompt_names_it_and_nothing_is_cut():
    prompt, answer = asked(NamedBudget(budget=1), "How many?")
    assert prompt == "How many? Think for 1 tokens."
    assert (answer.answer, answer.finish, answer.notes["budget"]) == ("7", "stop", 1)
    chosen = parse_choice("named_budget:budget=512,sentence=' At most {budget}.'").build()
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How many?"}]
    prompt, _ = asked(chosen, talk)
    assert "Be kind." in str(prompt)
    assert "How many? At most 512." in str(prompt)
    assert talk[-1]["content"] == "How many?"


@pytest.mark.parametrize("given", [{"budget": 0}, {"budget": 5, "sentence": " Be brief."}])
def test_refused(given):
    with pytest.raises(RecipeError, match="named_budget: budget="):
        NamedBudget(**given)
