"""Modes of rollouts and reference accuracies: what a recipe may say, and what it is told otherwise."""

from __future__ import annotations

import pytest

from laconic.recipes.grpo_rollouts import Modes
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
from laconic.rewards.errors import RecipeError

GRPO = "{kind: grpo, rewards: [{name: efficient_reasoning, alpha: 0.2}], batch_size: 16}"
DIRECT, THINKING = "{text: </think>, mode: no_think}", "{text: Alright, mode: think}"
ASKED = "keep: shortest_vs_longest, sampling: {temperature: 1.0}}"
ADAPT_THINK = GRPO.replace("efficient_reasoning, alpha: 0.2", "adapt_think")
REFERENCE = ADAPT_THINK[:-1] + ", reference: pairs}"


def with_modes(*modes, trainer="{}", more="", first=None):
    probability = "" if first is None else f", first_token_probability: {first}"
    rollouts = f"{{name: modes, modes: [{', '.join(modes)}]{probability}}}"
    return (GRPO, f"{GRPO[:-1]}, rollouts: {rollouts}, trainer: {trainer}{more}}}")


def limited(tokens):
    return f"{DIRECT[:-1]}, max_tokens: {tokens}}}"


CASES = {
    "one mode": (with_modes(DIRECT), "rollouts.modes: found 1; at least two modes make a choice"),
    "no share": (with_modes(DIRECT, THINKING[:-1] + ", share: 0}"), "share: found 0; must be more than 0"),
    "one text": (with_modes(DIRECT, DIRECT), "rollouts.modes[1].text: '</think>' stands twice"),
    "half rollouts": (
        with_modes(DIRECT, THINKING, trainer="{num_generations: 5}"),
        "trainer.num_generations: found 5, of which rollouts.modes get 2.5 and 2.5; the nearest that can be divided "
        "so: 4 or 6",
    ),
    "uneven shares": (
        with_modes(DIRECT[:-1] + ", share: 0.1}", THINKING[:-1] + ", share: 0.2}"),
        "found 4, of which rollouts.modes get 1.333 and 2.667; the nearest that can be divided so: 3 or 6",
    ),
    "long mode": (
        with_modes(limited(65), THINKING, trainer="{max_completion_length: 64}"),
        "max_tokens: found 65; trainer.max_completion_length is 64",
    ),
    "vllm": (
        with_modes(DIRECT, THINKING, trainer="{use_vllm: true}"),
        "trainer.use_vllm: rollouts: {name: modes} are drawn by Laconic's own engine",
    ),
    "min_p": (
        with_modes(DIRECT, THINKING, trainer="{min_p: 0.1}"),
        "trainer.min_p: found 0.1; rollouts: {name: modes} are drawn by Laconic's own engine, which has no such "
        "setting; leave it out",
    ),
    "generation_kwargs": (
        with_modes(DIRECT, THINKING, trainer="{generation_kwargs: {do_sample: true}}"),
        "trainer.generation_kwargs: found {'do_sample': True}; rollouts: {name: modes} are drawn",
    ),
    "off-policy mask": (
        with_modes(DIRECT, THINKING, trainer="{off_policy_mask_threshold: 0.5}", first=0.5),
        "trainer.off_policy_mask_threshold: found 0.5; rollouts.first_token_probability 0.5 is not what the model "
        "gave, and would count as its drift; leave one of the two out",
    ),
    "vespo": (
        with_modes(DIRECT, THINKING, trainer="{loss_type: vespo}", first=0.5),
        "trainer.loss_type: found 'vespo', which weighs a rollout by all its ratios; rollouts.first_token_probability",
    ),
    "no reference": (
        (GRPO, ADAPT_THINK[:-1] + ", advantages: {name: rewards}}"),
        "rewards[0]: without reference accuracies no wrong rollout is pushed down by advantages: {name: rewards}; "
        "name a generate stage in which the model answers these problems with reference:",
    ),
    "reference for nobody": (
        (GRPO, GRPO[:-1] + ", reference: pairs}"),
        "reference: found 'pairs', and no reward of this stage reads reference accuracies; leave it out",
    ),
    "reference to a teacher": (
        (GRPO, REFERENCE.replace("pairs", "teach")),
        "reference: 'teach' is a generate stage and holds more or other things than a model's answers",
    ),
    "reference to a model": (
        (GRPO, REFERENCE.replace("pairs", "sft")),
        "reference: 'sft' is a sft stage and holds more or other things",
    ),
    "reference to nothing": ((GRPO, REFERENCE.replace("pairs", "paris")), "did you mean pairs?"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(edited, case):
    change, message = CASES[case]
    with pytest.raises(RecipeError) as caught:
        load_recipe(edited(change))
    assert message in str(caught.value)
    assert "mistakes" not in str(caught.value)


def test_a_shared_split_is_no_reference(edited):
    for change in ("gold: true", "split: test"):
        with pytest.raises(RecipeError, match="reference: 'pairs' is a generate stage and holds more or other"):
            load_recipe(edited((GRPO, REFERENCE), (ASKED, f"{ASKED[:-1]}, {change}}}")))


def test_let_through(edited):
    quiet = "{min_p: null, repetition_penalty: 1.0, off_policy_mask_threshold: 0.5, loss_type: vespo}"
    assert load_recipe(edited(with_modes(DIRECT, THINKING, trainer=quiet)))
    # TRL takes the group's mean away, and the reference with it.
    assert load_recipe(edited((GRPO, ADAPT_THINK)))
    assert load_recipe(edited((GRPO, REFERENCE[:-1] + ", advantages: {name: rewards}}")))


def test_not_with_searches(edited):
    search = ("seed: 3\n", "seed: 3\nsearch: {retriever: 'http://localhost:1'}\n")
    with pytest.raises(RecipeError, match="rollouts: search episodes have a protocol of their own"):
        load_recipe(edited(search, with_modes(DIRECT, THINKING)))


def test_places_follow_the_shares():
    parts = [("a", 0.1), ("b", 0.3), ("c", 0.1)]
    spec = Modes.model_validate(
        {"name": "modes", "modes": [{"text": text, "mode": "think", "share": share} for text, share in parts]}
    )
    assert [mode.text for mode in spec.places(10)] == list("aabbbbbbcc")
    assert spec.misfits({"num_generations": 10}) == []
    (place, message), *_ = spec.misfits({"num_generations": 4})
    assert place == ("trainer", "num_generations")
    # Nothing below 5 can be divided so.
    assert message.endswith("so: 5")


def test_a_reference_is_an_input(edited, tmp_path):
    def grpo(*changes):
        return resolve(load_recipe(edited(*changes)), tmp_path).stage("grpo")

    plain, one, other = (
        grpo((GRPO, ADAPT_THINK)),
        grpo((GRPO, REFERENCE)),
        grpo((GRPO, REFERENCE), ("samples: 8", "samples: 16")),
    )
    assert one.inputs["reference"].split("-")[1] == "pairs"
    assert "reference" not in plain.inputs
    assert "reference" not in plain.to_yaml()
    # Other samples are other rewards.
    assert len({plain.hash, one.hash, other.hash}) == 3
