from __future__ import annotations

import json

import pytest

from laconic.recipes import trainer_fields
from laconic.recipes.trainer_fields import KINDS, OWNED, as_text, check_trainer, default, fields, legal_keys


@pytest.fixture(scope="module")
def installed():
    return trainer_fields.installed()


def test_the_checked_in_file_is_what_the_installed_trl_has(installed):
    assert json.loads(trainer_fields.FILE.read_text()) == json.loads(as_text(installed)), (
        "TRL changed: run python -m laconic.recipes.trainer_fields and look at the difference"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_pass_their_own_check(kind):
    plain = {name: default(kind, name) for name in legal_keys(kind) if "default" in fields(kind)[name]}
    assert check_trainer(plain, kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_kept_defaults_are_those_of_a_real_config(kind):
    import trl

    config = {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "grpo": trl.GRPOConfig}[kind](use_cpu=True, bf16=False)
    for name in ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"):
        assert default(kind, name) == getattr(config, name)


def test_batch_arithmetic_relies_on_these_fields():
    assert default("grpo", "num_generations") == 8
    assert {"steps_per_generation", "generation_batch_size", "num_iterations"} <= set(fields("grpo"))


def test_owned_fields_cannot_be_set():
    for key in ("output_dir", "seed", "data_seed", "report_to", "run_name", "push_to_hub", "hub_token", "do_train"):
        [wrong] = check_trainer({key: None}, "sft")
        assert wrong["type"].message().startswith("set by Laconic; ")
    assert not set(OWNED) & set(legal_keys("grpo"))


def test_no_field_speaks_to_the_hub_or_says_where_output_goes():
    # A new TRL field of this sort must be given a place in OWNED.
    suspicious = ("hub", "trackio", "output_dir", "logging_dir")
    for kind in KINDS:
        assert [name for name in legal_keys(kind) if any(part in name for part in suspicious)] == []


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("learning_rate", 1, True),
        ("learning_rate", 1e-5, True),
        ("learning_rate", "1e-5", False),
        ("learning_rate", None, False),
        ("max_steps", 10, True),
        ("max_steps", 10.0, False),
        ("bf16", None, True),
        ("bf16", 1, False),
        ("packing", "yes", False),
        ("optim", "adamw_torch", True),
        ("optim", "adam", False),
        ("lr_scheduler_kwargs", {"num_cycles": 1}, True),
        ("lr_scheduler_kwargs", [1], False),
    ],
)
def test_values_are_checked_by_the_kind_of_the_field(key, value, legal):
    assert (check_trainer({key: value}, "sft") == []) is legal
