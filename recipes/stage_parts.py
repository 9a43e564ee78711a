"""What stages are made of: sampling, teachers, rewards, adapters, and the settings handed on to TRL."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

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


class Teacher(StrictModel):
    """Who writes the traces when no model does."""

    source: Literal["program", "gold"] = "program"
    """`program`: the family's own verified teacher. `gold`: the solutions that come with the data set."""
    styles: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Share of each style, in any unit: only the proportions count."""
    redundancy: Annotated[float, Field(ge=0.0)] = 1.0
    """How much the overthinking style adds; 0 adds nothing."""

    @model_validator(mode="after")
    def _styles_exist(self) -> Self:
        from laconic.data_gen.teachers import STYLES

        if self.source == "gold" and self.styles:
            raise_all([mistake(("styles",), "gold solutions are as they are; leave styles out", self.styles)])
        if self.source == "program" and not sum(self.styles.values()) > 0:
            raise_all([mistake(("styles",), f"give at least one style a positive share; legal: {', '.join(STYLES)}")])
        unknown = [style for style in self.styles if style not in STYLES]
        raise_all([mistake(("styles", style), f"unknown style; {suggest(style, STYLES)}") for style in unknown])
        return self


class Reward(StrictModel):
    """A registered reward; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str
    weight: float = 1.0

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that the recipe sets."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _exists(self) -> Self:
        from laconic.rewards import check

        check(self.name, self.params)
        return self


class Aes(StrictModel):
    """Coefficients of the accuracy-efficiency score."""

    alpha: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the tokens saved."""
    beta: Annotated[float, Field(ge=0.0)] = 3.0
    """Weight of an accuracy gain."""
    gamma: Annotated[float, Field(ge=0.0)] = 5.0
    """Weight of an accuracy loss."""
