"""Which keys `trainer:` may hold: the fields of the TRL config that a stage's trainer takes.

TRL cannot be imported at plan time (it imports torch), so the fields are kept in `trainer_fields.json`. After a new
version of TRL is installed, write the file again::

    python -m laconic.recipes.trainer_fields
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Union

from pydantic_core import InitErrorDetails

from laconic.recipes.strict import mistake, shown, suggest
from laconic.rewards.jsonl import write_atomic

FILE = Path(__file__).with_name("trainer_fields.json")
KINDS = ("sft", "dpo", "grpo")

_LOGS = "metrics.jsonl and wandb are written always"
_EVAL = "evaluation is a stage of its own (kind: eval)"
_PROFILE = "a recipe names no machine; use a launch profile (laconic run --profile)"
_PUBLISH = "training uploads nothing"
_MODEL = "use the recipe's model:"
OWNED: dict[str, str] = {
    "output_dir": "use --runs; every stage has its own folder there",
    "overwrite_output_dir": "a stage folder is never overwritten; use --runs for another place",
    "run_name": "use the recipe's name:",
    "project": "use the recipe's name:",
    "seed": "use seed: of the stage or of the recipe",
    "data_seed": "use seed: of the stage or of the recipe",
    "report_to": _LOGS,
    "logging_dir": _LOGS,
    "resume_from_checkpoint": "run it again; a stage resumes from its last checkpoint",
    "save_only_model": "checkpoints are for resuming, so they hold the optimiser too",
    "auto_find_batch_size": "use batch_size: of the stage, with a smaller trainer.per_device_train_batch_size",
    "reward_weights": "use rewards: [{name: ..., weight: ...}]",
    "disable_tqdm": "progress is shown by laconic run",
    "chat_template_path": "one chat template serves all stages of a chain",
    "model_init_kwargs": _MODEL,
    "trust_remote_code": "models with code of their own are not supported",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "eval_strategy", "eval_steps", "eval_on_start"), _EVAL),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _EVAL),
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "accelerator_config", "parallelism_config"), _PROFILE),
    **dict.fromkeys(("use_cpu", "local_rank", "ddp_backend"), _PROFILE),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"), _PUBLISH),
    **dict.fromkeys(("hub_always_push", "hub_revision", "log_completions_hub_repo"), _PUBLISH),
    **dict.fromkeys(("trackio_bucket_id", "trackio_space_id", "trackio_static_space_id"), _LOGS),
}
"""Fields that Laconic sets itself, with what a recipe uses instead."""

_NAMES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "none": "null"}
_NAMES |= {"list": "a list", "dict": "a mapping"}
_SIMPLE = {bool: "bool", int: "int", float: "float", str: "str", type(None): "none", list: "list", dict: "dict"}


@cache
def fields(kind: str) -> dict[str, dict[str, Any]]:
    """The fields of a stage kind's TRL config: name -> `types`, and `choices` and `default` where they are simple."""
    return json.loads(FILE.read_text(encoding="utf-8"))[kind]


def legal_keys(kind: str) -> list[str]:
    """The keys that a recipe may set under `trainer:` of such a stage."""
    return [name for name in fields(kind) if name not in OWNED]


def default(kind: str, key: str) -> Any:
    """TRL's own default of a field."""
    return fields(kind)[key]["default"]


def check_trainer(trainer: dict[str, Any], *kinds: str) -> list[InitErrorDetails]:
    """What is wrong with a `trainer:` mapping for a stage of one of these kinds; empty if nothing."""
    known = {name: spec for kind in reversed(kinds) for name, spec in fields(kind).items()}
    found = ((key, value, _complaint(key, value, known)) for key, value in trainer.items())
    return [mistake((key,), message, value) for key, value, message in found if message]


def _complaint(key: str, value: object, known: dict[str, dict[str, Any]]) -> str | None:
    if key in OWNED:
        return f"set by Laconic; {OWNED[key]}"
    if key not in known:
        others = [kind for kind in KINDS if key in fields(kind)]
        where = f"a key of {' and '.join(others)} only; " if others else ""
        return f"unknown key; {where}{suggest(key, (name for name in known if name not in OWNED))}"
    if not _fits(value, known[key]["types"]):
        return f"found {shown(value)}; expected {' or '.join(_NAMES[name] for name in known[key]['types'])}"
    choices = known[key].get("choices")
    if choices and isinstance(value, str) and value not in choices:
        return f"found {value!r}; {suggest(value, choices)}"
    return None


def _fits(value: object, kinds: list[str]) -> bool:
    if not kinds:
        return True
    name = _SIMPLE.get(type(value))
    return name in kinds or (name == "int" and "float" in kinds)


def installed() -> dict[str, Any]:
    """What `trainer_fields.json` should hold for the installed TRL. Imports TRL, and so torch."""
    import trl

    configs = {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "grpo": trl.GRPOConfig}
    return {"trl": trl.__version__, **{kind: _describe(config) for kind, config in configs.items()}}


def _describe(config: type) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(config)
    return {item.name: _field(item, hints[item.name]) for item in dataclasses.fields(config) if item.init}


def _field(item: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    kinds = [_kind(part) for part in parts if part not in enums]
    # A part that is not plain data (a config object) can be written in several ways: leave such a field to TRL.
    spec: dict[str, Any] = {"types": [] if None in kinds else sorted(set(typing.cast(list[str], kinds)))}
    if enums:
        spec["choices"] = [member.value for member in enums[0]]
    plain = item.default.value if isinstance(item.default, Enum) else item.default
    if type(plain) in (bool, int, float, str, type(None)):
        spec["default"] = plain
    return spec


def _kind(part: Any) -> str | None:
    return _SIMPLE.get(typing.get_origin(part) or part)


def as_text(content: dict[str, Any]) -> str:
    """The file's text, one field per line, so that a diff between two TRL versions can be read."""
    blocks = [f' "trl": {json.dumps(content["trl"])}']
    for kind in KINDS:
        lines = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in sorted(content[kind].items())]
        blocks.append(f' "{kind}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    write_atomic(FILE, as_text(installed()))
