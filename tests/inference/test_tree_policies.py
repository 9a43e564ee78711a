"""AB-MCTS: published posteriors, the order of telling, and an exact ledger."""

import asyncio
import dataclasses
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from laconic.inference.engine import Sampling
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import Ledger
from laconic.inference.policies import POLICIES, Ask, run_policy
from laconic.inference.policies.bandit_tree import BanditTree, Beta, Gaussian, upper_bounds
from laconic.rewards.errors import LaunchError, RecipeError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "inference.json").read_text())
_RNG = random.Random(2)
MANY = [_RNG.random() for _ in range(60)]


def test_posteriors_are_the_published_ones():
    case = GOLDEN["treequest.gaussian_posterior"]
    for count, expected in enumerate(case["output"], start=1):
        assert dataclasses.asdict(Gaussian().after(case["input"]["obs"][:count])) == pytest.approx(expected)
    case = GOLDEN["treequest.beta_posterior"]
    assert dataclasses.asdict(Beta().after(case["input"]["obs"])) == pytest.approx(case["output"])
    assert Gaussian().after([]) == Gaussian()


def test_upper_bounds_are_the_published_ones():
    case = GOLDEN["treequest.ucb_action"]
    bounds = upper_bounds(case["input"]["rewards"])
    assert bounds == pytest.approx(case["output"]["scores(recomputed by hand)"])
    assert max(bounds, key=bounds.__getitem__) == case["output"]["chosen"]
    assert upper_bounds({"seen": [1.0], "unseen": []})["unseen"] == float("inf")


def test_draws_have_the_posterior_s_mean_and_spread():
    rng = random.Random(0)
    draws = [Gaussian(m=0.4, kappa=4, nu=10, tau_square=0.14).draw(rng) for _ in range(20_000)]
    mean = sum(draws) / len(draws)
    assert mean == pytest.approx(0.4, abs=0.01)
    # A t distribution: variance tau^2 / kappa * nu / (nu - 2).
    assert sum((draw - mean) ** 2 for draw in draws) / len(draws) == pytest.approx(0.14 / 4 * 10 / 8, rel=0.06)
    draws = [Beta(2.1, 1.9).draw(rng) for _ in range(20_000)]
    assert sum(draws) / len(draws) == pytest.approx(2.1 / 4, abs=0.01)


def grown(scores, *, batch=3, order=lambda trials: trials, **given):
    tree = BanditTree(seed=5, **given)
    asked = []
    while len(asked) < len(scores):
        new = tree.ask(batch)
        asked += new
        for trial in order(new):
            tree.tell(trial.number, scores[trial.number])
    return tree, asked


def test_the_order_of_telling_does_not_matter():
    scores = MANY
    runs = []
    for order in itertools.permutations(range(3)):
        tree, asked = grown(scores, order=lambda new, order=order: [new[place] for place in order])
        runs.append((asked, [tree.beliefs(place) for place in (None, *range(len(MANY)))], tree.child_beliefs()))
    assert all(run == runs[0] for run in runs)
    assert len({trial.parent for trial in runs[0][0]}) > 2  # it went deeper, so that the order could have mattered


def test_scores_go_to_new_at_the_parent_and_to_going_on_up_the_path():
    scores = MANY
    tree, asked = grown(scores, prior=Beta())
    parent = {trial.number: trial.parent for trial in asked}

    def above(number):
        return [] if parent[number] is None else [parent[number], *above(parent[number])]

    for place in (None, *parent):
        children = [number for number in parent if parent[number] == place]
        deeper = [n for n in parent if parent[n] != place and (place is None or place in above(n))]
        new, going_on = tree.beliefs(place)
        assert new.a == pytest.approx(0.5 + sum(scores[n] for n in children))
        assert going_on.a == pytest.approx(0.5 + sum(scores[n] for n in deeper))
        for child, belief in tree.child_beliefs(place).items():
            own = [child, *(n for n in parent if child in above(n))]
            assert belief.a + belief.b == pytest.approx(1 + len(own))
    assert max(len(above(number)) for number in parent) >= 2


def test_only_waiting_trials_can_be_told():
    tree = BanditTree(Beta())
    [trial] = tree.ask()
    with pytest.raises(RecipeError, match="from 0 to 1"):
        tree.tell(trial.number, 1.5)
    tree.tell(trial.number, 0.5)
    with pytest.raises(RecipeError, match="not waiting"):
        tree.tell(trial.number, 0.5)


def test_a_leaf_is_widened_and_good_refinements_are_gone_on_with():
    tree = BanditTree(seed=1)
    [first] = tree.ask()
    assert first.parent is None
    tree.tell(first.number, 0.0)
    # New answers at the root are worthless; what is made below the first one is perfect.
    for _ in range(200):
        [trial] = tree.ask()
        tree.tell(trial.number, 0.0 if trial.parent is None else 1.0)
    new, deeper = tree.beliefs()
    assert deeper.m > 0.9
    assert new.m < 0.1
    parents = Counter(trial.parent is None for trial in tree.ask(100))
    assert parents[False] > 90


def test_models_compete_by_all_their_scores():
    tree = BanditTree(actions=("a", "b"), choose="ucb", seed=0)
    said = []
    for _ in range(40):
        [trial] = tree.ask()
        said.append(trial.action)
        tree.tell(trial.number, 1.0 if trial.action == "b" else 0.0)
    assert said[:2] == ["a", "b"]
    assert said.count("b") > 30
    tree = BanditTree(actions=("a", "b"), choose="thompson", seed=0)
    for _ in range(60):
        [trial] = tree.ask()
        tree.tell(trial.number, 1.0 if trial.action == "b" else 0.0)
    assert len(tree.rewards["b"]) > 45


class Answers:
    """Every completion is its number; what it was asked is kept."""

    def __init__(self, name="", cost=2):
        self.prompts, self.name, self.cost = [], name, cost

    def __call__(self, context):
        self.prompts.append(context.prompt)
        return [f"{self.name}{len(self.prompts) - 1}"] + [""] * (self.cost - 1)


def solve(script, judge, *, engines=None, **parameters):
    async def go():
        engine = ScriptedEngine(script, capabilities=())
        others = {name: ScriptedEngine(other) for name, other in (engines or {}).items()}
        ask = Ask(engine, "q", Ledger(), Sampling(max_tokens=10), scorer=judge, engines=others)
        answer = await run_policy(POLICIES["ab_mcts"].build(parameters), ask)
        assert answer.ledger.generated == engine.emitted + sum(other.emitted for other in others.values())
        return answer

    return asyncio.run(go())


async def by_number(prompt, texts):
    return [int(text.strip("b")) / 100 for text in texts]


def test_the_best_of_all_trials_is_returned_and_every_token_is_counted():
    script = Answers()
    answer = solve(script, by_number, trials=12, batch=5)
    assert (answer.text, answer.confidence, answer.finish) == ("11", 0.11, "stop")
    # Twelve completions of two tokens and an end of sequence.
    assert answer.ledger.by_role_and_fate()["answer"] == {"kept": 3, "voted": 33, "discarded": 0}
    assert answer.ledger.critical_path == 3 * 3  # batches of 5, 5 and 2
    assert answer.notes["parents"][:5] == [None] * 5


def test_refinements_see_the_answer_and_its_score():
    script = Answers()
    answer = solve(script, by_number, trials=30, batch=1, refine="{score} {score:.2f}: again")
    deep = [(number, parent) for number, parent in enumerate(answer.notes["parents"]) if parent is not None]
    assert deep
    for number, parent in deep:
        asked, said, wanted = script.prompts[number]
        assert (asked["content"], said["content"]) == ("q", str(parent))
        assert wanted["content"] == f"{parent / 100:g} {parent / 100:.2f}: again"
    assert {prompt for prompt in script.prompts if isinstance(prompt, str)} == {"q"}


def test_further_models_take_part():
    own, other = Answers(), Answers("b")
    answer = solve(own, by_number, engines={"large": other}, models=("large",), trials=10, choose="ucb")
    assert own.prompts
    assert other.prompts
    assert len(own.prompts) + len(other.prompts) == 10
    assert answer.ledger.generated == 30
    with pytest.raises(LaunchError, match="no engine named huge"):
        solve(own, by_number, models=("huge",))


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"batch": 0}, {"belief": "flat"}, {"choose": "random"}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(RecipeError):
        POLICIES["ab_mcts"].build(wrong)
