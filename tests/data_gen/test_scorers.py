import asyncio
import re
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from laconic.data_gen.checkers import DERIVATIONS
from laconic.data_gen.families import FAMILIES
from laconic.data_gen.scorers import find_scorer
from laconic.data_gen.teachers import STYLES, check_trace, teach
from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import Ask, run_policy
from laconic.inference.policies.best_first import AStarDecoding
from laconic.inference.policies.step_search import ParticleFilter, StepBeam
from laconic.rewards.errors import DataError, RecipeError
from laconic.rewards.records import Problem

SUM = Problem("x", "3 + 4 - 9 =", "-2", "chain_sum", meta={"numbers": [3, 4, 9], "operators": ["+", "-"]})
MATHS = Problem("m", "Half of one?", r"\frac{1}{2}", "math")


def scores(name, problem, *texts):
    return asyncio.run(find_scorer(name)(problem)(problem.prompt, texts))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), style=st.sampled_from(STYLES))
def test_every_beginning_of_a_right_trace_scores_1(family, seed, style):
    problem = next(FAMILIES[family].generate(seed))
    trace = teach(problem, style, rng=Random(seed))
    thought = trace.index("</think>") + len("</think> ")
    texts = [*(trace[:end] for end in range(thought + 1)), trace, f" {trace} "]
    assert set(scores("steps", problem, *texts)) == {1.0}
    if "<think> </think>" not in trace:  # as after a template that ends with the opening tag
        assert set(scores("steps", problem, *(text.removeprefix("<think>") for text in (trace[:thought], trace)))) == {
            1.0
        }


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), place=st.floats(0, 1, exclude_max=True), other=st.integers(-20, 120))
def test_a_changed_number_scores_0_from_its_step_on_and_1_before(family, seed, place, other):
    problem = next(FAMILIES[family].generate(seed))
    words = teach(problem, "medium", rng=Random(seed)).split()
    end = words.index("</think>")
    numbers = [spot for spot, word in enumerate(words[:end]) if re.fullmatch(r"-?\d+", word)]
    assume(numbers)
    spot = numbers[int(place * len(numbers))]
    assume(str(other) != words[spot])
    wrong = [*words[:spot], str(other), *words[spot + 1 :]]
    step_end = next(at for at in range(spot, end + 1) if wrong[at] in (";", "</think>"))
    found = scores("steps", problem, *(" ".join(wrong[: size + 1]) for size in range(len(wrong))))
    # A wrong number that makes another true step (such as another first factor) is seen later, but for sure at the end.
    assert set(found[:step_end]) == {1.0}
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0.0


def test_each_rule_of_the_process_verifier():
    right = ["", "<thi", "<think>", "<think> 3 + 4 = 8", "<think> 3 + 4 = 7 ;", "3 + 4 = 7 ; 7 - 9", "-2"]
    right += ["<think> 3 + 4 = 7 ; 7 - 9 = -2 </think>", "<think> </think> -2", "3 + 4 = 7 ; 7 - 9 = -2 </think> -2"]
    wrong = ["<think> 3 + 4 = 8 ;", "<think> 3 + 4 = 8 </think>", "3 + 4 = 8 ; 8", "7", "<think> 3 + 4 = 7 ; ;"]
    wrong += ["<think> 3 + 4 = 7 </think> -2", "<think> 3 + 4 = 7 ; 7 - 9 = -2 </think> 2", "so <think> 3 + 4 = 7 ;"]
    assert scores("steps", SUM, *right) == [1.0] * len(right)
    assert scores("steps", SUM, *wrong) == [0.0] * len(wrong)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**40), data=st.data())
def test_whatever_a_model_writes_gets_a_number(family, seed, data):
    problem = next(FAMILIES[family].generate(seed))
    known = [*teach(problem, "long", rng=Random(seed)).split(), ";", "</think>", "<think>", "(", "/", "0", "x", "-"]
    text = " ".join(data.draw(st.lists(st.sampled_from(known), max_size=25)))
    [score] = scores("steps", problem, text)
    assert score in (0.0, 1.0)
    if re.fullmatch(r"<think> .*</think> \S.*", text) and score == 1.0:
        check_trace(problem, text)  # a completed trace that scores 1 is a right one


@pytest.mark.parametrize(
    "policy", [StepBeam(separator=";"), ParticleFilter(separator=";"), AStarDecoding(separator=";", cost=0.0)]
)
def test_searching_steps_with_the_process_verifier_ends_in_a_right_trace(policy):
    # Of two branches one errs at every step; a whole trace of one branch is hardly ever right.
    right = ["<think>", " 3", " +", " 4", " =", " 7", " ;", " 7", " -", " 9", " =", " -2", " </think>", " -2"]

    def script(context):
        said = context.text
        for word in right:
            if not said:
                yield " 8" if word in (" 7", " -2") and context.branch % 2 == 0 else word
            said = said[len(word) :]

    engine, ledger = ScriptedEngine(script), Ledger()
    ask = Ask(engine, SUM.prompt, ledger, sampling=Sampling(max_tokens=40), scorer=find_scorer("steps")(SUM))
    answer = asyncio.run(run_policy(policy, ask))
    assert answer.text == "".join(right)
    check_trace(SUM, answer.text)
    assert ledger.generated == engine.emitted > ledger.tokens(fate="kept") == len(right) + 1


def test_the_process_verifier_refuses_tasks_without_steps_to_check():
    assert set(DERIVATIONS) == set(FAMILIES)
    with pytest.raises(DataError, match="no checker for the task 'math'") as caught:
        find_scorer("steps")(MATHS)
    assert "chain_sum" in caught.value.cure


def test_the_oracle_is_the_verifier_on_what_follows_the_thinking():
    texts = ["<think> 9 </think> -2", "<think> -2 </think> 9", "<think> -2", "-2", ""]
    assert scores("gold", SUM, *texts) == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert scores("gold", MATHS, r"<think> so </think> \boxed{0.5}", r"\boxed{2}") == [1.0, 0.0]
    unknown = Problem("m", "?", "", "math")
    assert scores("gold", unknown, r"\boxed{2}") == [0.0]


def test_anybody_s_own_scorer_is_made_for_the_problem(tmp_path, monkeypatch):
    (tmp_path / "own_scorer.py").write_text(
        "def near(problem):\n"
        "    async def score(prompt, texts):\n"
        "        return [float(problem.answer in text) for text in texts]\n"
        "    return score\n"
        "def nothing(problem):\n"
        "    return None\n"
        "number = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert scores("own_scorer:near", SUM, "it is -2", "it is 2") == [1.0, 0.0]
    with pytest.raises(RecipeError, match="NoneType, which is no scorer"):
        find_scorer("own_scorer:nothing")(SUM)
    with pytest.raises(RecipeError, match="number cannot be called"):
        find_scorer("own_scorer:number")
    with pytest.raises(RecipeError, match=r"AttributeError.*far"):
        find_scorer("own_scorer:far")
    with pytest.raises(RecipeError, match="ModuleNotFoundError"):
        find_scorer("no_such_module_here:near")
    with pytest.raises(RecipeError, match="unknown scorer 'step'") as caught:
        find_scorer("step")
    assert "steps, gold" in caught.value.cure
