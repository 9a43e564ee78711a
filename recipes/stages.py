"""The stages of a recipe: one frozen model per kind, and what each consumes and yields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from laconic.recipes.grpo_advantages import AdvantagesSpec
from laconic.recipes.grpo_budgets import PromptBudgets
from laconic.recipes.grpo_checks import method_mistakes
from laconic.recipes.grpo_rollouts import RolloutsSpec
from laconic.recipes.grpo_sampling import DynamicSampling
from laconic.recipes.policy_entry import PolicyEntry, Prices, check_policies
from laconic.recipes.stage_parts import Aes, DpoTrainer, GrpoTrainer, Lora, Reward, SamplingSpec, SftTrainer, Teacher
from laconic.recipes.strict import Count, Fraction, Listed, NotEmpty, StrictModel, mistake, raise_all, suggest

Name = Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$", max_length=64)]
Rows: TypeAlias = Literal["sft", "preference"]
"""The two kinds of training rows."""


class BaseStage(StrictModel):
    """What every stage has."""

    inherits: ClassVar[tuple[str, ...]] = ()
    """The keys of `defaults` that such a stage takes."""
    makes_model: ClassVar[bool] = False

    name: Name
    seed: Annotated[int, Field(ge=0)] | None = None
    """Unset means the recipe's."""

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_kind(cls, data: Any) -> Any:
        return {"name": data.get("kind"), **data} if isinstance(data, dict) else data


class InitStage(BaseStage):
    """Builds the small model of `model: {scratch: ...}`; it is put first, no recipe lists it."""

    makes_model: ClassVar[bool] = True

    kind: Literal["init"] = "init"


class GenerateStage(BaseStage):
    """Problems in, rollouts and training rows out."""

    inherits: ClassVar[tuple[str, ...]] = ("sampling", "samples")

    kind: Literal["generate"]
    teacher: Teacher | None = None
    model: str | None = None
    """A stage that makes a model, or `base`; unset means the nearest earlier one. Not with a teacher."""
    split: Literal["train", "test"] = "train"
    skip: Annotated[int, Field(ge=0)] = 0
    """Leave out the first so many problems: a later stage with `limit` then trains on what was not taught."""
    limit: Count | None = None
    """Use only the first so many of the others."""
    samples: Count = 1
    """Traces per problem."""
    gold: bool = False
    """Add the data set's own solution to a model's samples, as one more sample of each problem. With
    `keep: correct_vs_wrong` this is SPIN (arXiv:2401.01335)."""
    sampling: SamplingSpec = SamplingSpec()
    pass_rate: Annotated[tuple[Fraction, Fraction], Listed] | None = None
    """Keep only problems whose share of correct samples lies in this range, both ends included."""
    keep: str = "all"
    """How rollouts become rows: a name from `data_gen.select.SELECTORS` or `data_gen.pairs.PAIRINGS`."""
    decontaminate: bool = True
    """Drop training problems that share an 8-gram with a test problem."""

    @property
    def rows(self) -> Rows:
        """Which kind of rows the stage yields."""
        from laconic.data_gen.pairs import PAIRINGS

        return "preference" if self.keep in PAIRINGS else "sft"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        from laconic.data_gen.pairs import PAIRINGS
        from laconic.data_gen.select import SELECTORS

        wrong = []
        legal = [*SELECTORS, *PAIRINGS]
        if self.keep not in legal:
            wrong.append(mistake(("keep",), f"found {self.keep!r}; {suggest(self.keep, legal)}"))
        if self.teacher is None and "keep" not in self.model_fields_set:
            wrong.append(mistake(("keep",), f"required where a model generates; one of {', '.join(legal)}"))
        if self.teacher is not None and self.model is not None:
            wrong.append(mistake(("model",), "a teacher writes the traces here; leave either teacher or model out"))
        if self.teacher is not None and self.gold:
            wrong.append(mistake(("gold",), "gold goes with a model's samples; use teacher: {source: gold}"))
        if self.teacher is not None and self.sampling != SamplingSpec():
            wrong.append(mistake(("sampling",), "a teacher does not sample; leave it out"))
        if self.pass_rate is not None and self.pass_rate[0] > self.pass_rate[1]:
            wrong.append(mistake(("pass_rate",), f"found {list(self.pass_rate)}; the lower end comes first"))
        raise_all(wrong)
        return self

    @model_serializer(mode="wrap")
    def _without_skip(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A stage that skips nothing stays what it was before one could: same file, same hash.
        return {key: value for key, value in write(self).items() if key != "skip" or value}


class TrainingStage(BaseStage):
    """What `sft`, `dpo` and `grpo` share."""

    inherits: ClassVar[tuple[str, ...]] = ("trainer", "batch_size", "lora")
    makes_model: ClassVar[bool] = True

    model: str | None = None
    """The model to start from: an earlier stage or `base`; unset means the nearest earlier one."""
    batch_size: Count | None = None
    """Rows per optimiser step over all processes (for grpo: rollouts). Accumulation is then derived, and
    `trainer.per_device_train_batch_size` is the largest micro-batch."""
    lora: Lora | None = None

    @model_validator(mode="after")
    def _accumulation_is_derived(self) -> Self:
        key = "gradient_accumulation_steps"
        if self.batch_size is not None and key in self.trainer:  # type: ignore[attr-defined]
            raise_all([mistake(("trainer", key), f"derived from batch_size {self.batch_size}; leave one of them out")])
        return self


class SftStage(TrainingStage):
    """Supervised fine-tuning on rows of a generate stage; the loss is on the completion only."""

    kind: Literal["sft"]
    data: str | None = None
    """A generate stage; unset means the nearest earlier one that yields SFT rows."""
    trainer: SftTrainer = Field(default_factory=dict)


class DpoStage(TrainingStage):
    """Direct preference optimisation on pairs of a generate stage."""

    kind: Literal["dpo"]
    data: str | None = None
    """A generate stage; unset means the nearest earlier one that yields preference rows."""
    nll_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the likelihood of the chosen trace, added to the loss."""
    trainer: DpoTrainer = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way_to_set_the_loss(self) -> Self:
        clash = [key for key in ("loss_type", "loss_weights") if key in self.trainer and self.nll_weight > 0]
        raise_all([mistake(("trainer", key), f"nll_weight {self.nll_weight} sets it; leave it out") for key in clash])
        return self


class GrpoStage(TrainingStage):
    """Group-relative policy optimisation with rewards from the registry."""

    kind: Literal["grpo"]
    rewards: Annotated[tuple[Reward, ...], Listed, NotEmpty]
    limit: Count | None = None
    """Use only the first so many training problems."""
    decontaminate: bool = True
    """Drop training problems that share an 8-gram with a test problem."""
    search_disabled: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """With `search:`, the share of each group's rollouts that may not search (SAAS: 0.5)."""
    fast: bool = True
    """Train without padding and without rollouts that cannot change the gradient, which is the same; false is TRL's own
    trainer."""
    tokens_per_micro_batch: Count | None = None
    """Of one forward and backward pass on one process, padding included; unset means chosen for the device."""
    advantages: AdvantagesSpec | None = None
    """Other advantages than TRL's."""
    rollouts: RolloutsSpec | None = None
    """Other rollouts than free ones."""
    reference: str | None = None
    """A generate stage in which a model answers these training problems: the share of its samples that are right is
    the column `reference_accuracy` of rewards (`adapt_think`)."""
    dynamic_sampling: DynamicSampling | None = None
    """Draw groups without signal again."""
    budgets: PromptBudgets | None = None
    """Name a budget of tokens in every prompt."""
    stop_early: bool = False
    """Stop a rollout one token beyond the length above which no reward tells rollouts apart any more. Rewards are the
    same; lengths, accuracies and losses that divide by tokens (dapo, cispo) are those of the stopped rollouts."""
    trainer: GrpoTrainer = Field(default_factory=dict)

    @model_validator(mode="after")
    def _groups_are_groups(self) -> Self:
        wrong = []
        generations = self.trainer.get("num_generations", 2)
        if generations < 2:
            message = f"found {generations}; a group needs at least 2 rollouts to compare"
            wrong.append(mistake(("trainer", "num_generations"), message))
        if {"generation_batch_size", "steps_per_generation"} <= set(self.trainer):
            wrong.append(
                mistake(("trainer", "generation_batch_size"), "steps_per_generation sets it too; leave one out")
            )
        if not self.fast and self.tokens_per_micro_batch is not None:
            message = "TRL's own trainer counts rollouts; leave it out or set fast: true"
            wrong.append(mistake(("tokens_per_micro_batch",), message))
        raise_all(wrong)
        return self

    @model_validator(mode="after")
    def _methods_go_together(self) -> Self:
        raise_all(method_mistakes(self))
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A stage that sets none of them stays what it was before there were any: same file, same hash.
        unset = {"search_disabled": 0.0, "fast": True, "tokens_per_micro_batch": None, "stop_early": False}
        unset |= dict.fromkeys(("advantages", "rollouts", "reference", "dynamic_sampling", "budgets"))
        return {
            key: value for key, value in write(self).items() if key not in unset or getattr(self, key) != unset[key]
        }


class EvalStage(BaseStage):
    """Accuracy and cost of models, with errors, on the same problems."""

    inherits: ClassVar[tuple[str, ...]] = ("sampling", "samples")

    kind: Literal["eval"]
    models: Annotated[tuple[str, ...], Listed, NotEmpty] | None = None
    """Stages that make models, or `base`; unset means all earlier ones."""
    baseline: str | None = None
    """The model that the others are compared with; unset means the first of `models`."""
    samples: Count = 4
    """Completions per problem."""
    sampling: SamplingSpec = SamplingSpec()
    split: Literal["train", "test"] = "test"
    limit: Count | None = None
    """Use only the first so many problems."""
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    """How much accuracy may be lost and still count as not inferior (0.01 is one point)."""
    budgets: Annotated[tuple[Count, ...], Listed, NotEmpty] | None = None
    """Token budgets at which accuracy is shown; unset means chosen from what was used."""
    aes: Aes = Aes()
    policies: Annotated[tuple[PolicyEntry, ...], Listed] = ()
    """Inference policies, each compared with no policy of the same model on the same problems. Those that ask further
    engines (cascades, routers, drafts) find the stage's models under their names."""
    scorer: str | None = None
    """For policies that need one: `steps`, `gold` or `module:function`."""
    prices: Prices | None = None
    """To give the cost of policies in money too."""

    @model_validator(mode="after")
    def _policies_fit(self) -> Self:
        raise_all(check_policies(self.policies, self.scorer, self.models))
        return self

    @model_serializer(mode="wrap")
    def _without_policies(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A stage without policies stays what it was before there were any: same file, same hash.
        unset = {"policies": (), "scorer": None, "prices": None}
        return {
            key: value for key, value in write(self).items() if key not in unset or getattr(self, key) != unset[key]
        }


Stage: TypeAlias = Annotated[
    GenerateStage | SftStage | DpoStage | GrpoStage | EvalStage,
    Field(discriminator="kind"),
]
ResolvedStage: TypeAlias = Annotated[
    InitStage | GenerateStage | SftStage | DpoStage | GrpoStage | EvalStage,
    Field(discriminator="kind"),
]
STAGES: dict[str, type[BaseStage]] = {
    "generate": GenerateStage,
    "sft": SftStage,
    "dpo": DpoStage,
    "grpo": GrpoStage,
    "eval": EvalStage,
}
