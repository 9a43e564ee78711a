"""What stages are made of: sampling, teachers, rewards, adapters, and the settings handed on to TRL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from laconic.inference.engine import Sampling
from laconic.recipes.strict import Count, StrictModel, mistake, raise_all, suggest
from laconic.recipes.trainer_fields import check_trainer, fields, legal_keys


def _trainer(*kinds: str) -> Any:
    def check(trainer: dict[str, Any]) -> dict[str, Any]:
        raise_all(check_trainer(trainer, *kinds))
        return trainer

    types = {"bool": "boolean", "int": "integer", "float": "number", "str": "string", "none": "null"}
    types |= {"list": "array", "dict": "object"}
    keys = {key: spec for kind in kinds for key, spec in fields(kind).items() if key in legal_keys(kind)}
    properties = {k: {"type": [types[name] for name in v["types"]]} if v["types"] else {} for k, v in keys.items()}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return Annotated[dict[str, Any], AfterValidator(check), WithJsonSchema(schema)]


SftTrainer = _trainer("sft")
DpoTrainer = _trainer("dpo")
GrpoTrainer = _trainer("grpo")
AnyTrainer = _trainer("sft", "dpo", "grpo")


class SamplingSpec(StrictModel):
    """How completions are drawn."""

    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Count | None = None
    max_tokens: Count = 256
    """Generated tokens, the end-of-sequence token included."""

    def build(self) -> Sampling:
        """The same settings in the form that engines take."""
        return Sampling(**self.model_dump())


def _module_names(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError(f"found {value!r}; expected all-linear, a pattern, or a list of module names")


TargetModules = Annotated[
    Any, AfterValidator(_module_names), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]})
]


class Lora(StrictModel):
    """Train low-rank adapters only; they are merged into the saved model."""

    r: Count = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: TargetModules = "all-linear"


class Defaults(StrictModel):
    """What a stage inherits where it says nothing itself; `trainer` and `sampling` are inherited key by key."""

    trainer: AnyTrainer = Field(default_factory=dict)
    """A stage takes from it only the keys that its own TRL config has."""
    sampling: SamplingSpec = SamplingSpec()
    samples: Count | None = None
    batch_size: Count | None = None
    lora: Lora | None = None


_OF_WORLD = ("statements", "taught_questions", "recalls", "closed_book")


class Teacher(StrictModel):
    """Who writes the traces when no model does."""

    source: Literal["program", "gold"] = "program"
    """`program`: the family's own verified teacher. `gold`: the solutions that come with the data set."""
    styles: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Share of each style, in any unit: only the proportions count."""
    redundancy: Annotated[float, Field(ge=0.0)] = 1.0
    """How much the overthinking style adds; 0 adds nothing."""
    statements: Annotated[int, Field(ge=0)] = 0
    """Of a world: rows that state each taught fact closed-book."""
    taught_questions: Annotated[int, Field(ge=0)] = 0
    """Of a world: episodes about each taught fact whose question is not held out."""
    recalls: Annotated[int, Field(ge=0)] = 0
    """Of a world: episodes about each taught fact, held out or not, asked in the words of a statement; half of the
    questions for one fact that is not taught are then asked so too."""
    closed_book: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Of a world: share of the rows in which what was taught is answered from memory that are asked with the prompt of
    episodes that cannot search, for a grpo stage with `search_disabled`."""

    @model_validator(mode="after")
    def _styles_exist(self) -> Self:
        from laconic.data_gen.teachers import STYLES as procedural
        from laconic.data_gen.world.episodes import STYLES as of_world

        legal = (*procedural, *of_world)
        if self.source == "gold" and self.styles:
            raise_all([mistake(("styles",), "gold solutions are as they are; leave styles out", self.styles)])
        if self.source == "program" and not sum(self.styles.values()) > 0:
            raise_all([mistake(("styles",), f"give at least one style a positive share; legal: {', '.join(legal)}")])
        unknown = [style for style in self.styles if style not in legal]
        raise_all([mistake(("styles", style), f"unknown style; {suggest(style, legal)}") for style in unknown])
        return self

    @model_serializer(mode="wrap")
    def _without_world(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A teacher of no world stays what it was before there were any: same file, same hash.
        return {key: value for key, value in write(self).items() if key not in _OF_WORLD or value}


def _reward_schema(schema: dict[str, Any]) -> None:
    """Add the keys that say when, how much and for whom a reward counts; all others are the reward's parameters."""
    from laconic.rewards.compose import GATES
    from laconic.rewards.schedule import Warmup

    points = {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}}
    gates = [
        _object_schema(gate) | {"properties": {"kind": {"const": kind}} | _keywords(gate), "required": ["kind"]}
        for kind, gate in GATES.items()
    ]
    schema["properties"] |= {
        "warmup": _object_schema(Warmup),
        "schedule": {"type": "object", "properties": {"steps": points, "share": points}, "additionalProperties": False},
        "gate": {"anyOf": gates},
        "tasks": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "times_correct": {"type": "boolean"},
        "judge": {"type": "string", "pattern": "^[^:]+:.+$"},
    }


def _object_schema(wrapper: Callable[..., Any]) -> dict[str, Any]:
    return {"type": "object", "properties": _keywords(wrapper), "additionalProperties": False}


def _keywords(wrapper: Callable[..., Any]) -> dict[str, Any]:
    from laconic.rewards.parameters import Range, parameters_of

    found = {}
    for name, parameter in parameters_of(wrapper).items():
        if isinstance(parameter.legal, tuple):
            found[name] = {"enum": list(parameter.legal)}
            continue
        found[name] = {"type": {int: "integer", float: "number", bool: "boolean"}[parameter.kind]}
        if isinstance(parameter.legal, Range):
            ends = {"minimum": parameter.legal.low, "maximum": parameter.legal.high}
            found[name] |= {key: end for key, end in ends.items() if math.isfinite(end)}
    return found


class Reward(StrictModel):
    """A registered reward; further keys are its parameters, or say when and for whom it counts (`rewards.compose`)."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_reward_schema)

    name: str
    weight: float = 1.0

    @property
    def entry(self) -> dict[str, Any]:
        """All keys, as `laconic.rewards.compose` takes them."""
        return {"name": self.name, "weight": self.weight, **(self.model_extra or {})}

    @model_validator(mode="after")
    def _is_legal(self) -> Self:
        from laconic.rewards.compose import check_entry

        check_entry(self.entry)
        return self


class Aes(StrictModel):
    """Coefficients of the accuracy-efficiency score."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the tokens saved."""
    beta: Annotated[float, Field(ge=0.0)] = 3.0
    """Weight of an accuracy gain."""
    gamma: Annotated[float, Field(ge=0.0)] = 5.0
    """Weight of an accuracy loss."""
