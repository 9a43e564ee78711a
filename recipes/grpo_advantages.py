"""How a grpo stage makes advantages of rewards, where TRL's way is not a paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field
from pydantic_core import InitErrorDetails

from laconic.recipes.strict import StrictModel, mistake, shown
from laconic.recipes.trainer_fields import default

_Positive = Annotated[float, Field(gt=0.0)]
_NonNegative = Annotated[float, Field(ge=0.0)]


class Estimated(StrictModel):
    """An estimator of `laconic.rewards.advantages` that has no parameters."""

    name: Literal["rloo", "dr_saf", "rewards"]
    """`rloo`: against the mean of the other rollouts of the group. `dr_saf`: a right rollout is never pushed down.
    `rewards`: the rewards themselves, as AdaptThink has it."""


class Dler(StrictModel):
    """DLER: against the group's mean, then whitened over all tokens of the generation."""

    name: Literal["dler"]
    boost: _NonNegative = 0.0
    """Added where the reward is at least 1; the released code adds 0.1, the paper nothing."""


class Thinkless(StrictModel):
    """Thinkless: the loss of the first token, which chooses the mode, apart from that of all others."""

    name: Literal["thinkless"]
    control_weight: _Positive = 0.001
    """Of the mean loss of first tokens; that of all others counts once."""


class Hgpo(StrictModel):
    """HGPO: rollouts compete within their mode, and the two modes with each other on the first token."""

    name: Literal["hgpo"]
    alpha: _Positive = 1.0
    """Weight of the advantage between modes."""
    delta: _NonNegative = 0.2
    """How much better thinking must do on average to win. [reward]"""


AdvantagesSpec: TypeAlias = Annotated[Estimated | Dler | Thinkless | Hgpo, Field(discriminator="name")]


def advantages_mistakes(spec: AdvantagesSpec | None, trainer: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Settings of a stage that its advantages do not go with, each with its place below the stage.

    Args:
        spec: The stage's; None where they are TRL's.
        trainer: What the stage hands on to TRL.
    """
    if spec is None:
        return []
    found = dict(ignored(f"advantages: {spec.name}", trainer))
    if isinstance(spec, Thinkless | Hgpo):
        found |= _unfit(spec, trainer)
    return [mistake(("trainer", key), message) for key, message in found.items()]


def ignored(what: str, trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What TRL would do with rewards before its own advantages: keys of `trainer:`, and why they mean nothing.

    Args:
        what: Makes other advantages.
        trainer: Of the stage.
    """
    if "scale_rewards" in trainer:
        yield "scale_rewards", f"{what} has its own scale; leave it out"
    if trainer.get("multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize":
        yield "multi_objective_aggregation", f"{what} takes the weighted sum of rewards; leave it out"


def mixing(trainer: Mapping[str, Any], *, apart: str, lost: str) -> Iterator[tuple[str, str]]:
    """What would mix tokens that have advantages of their own: keys of `trainer:`, and why.

    Args:
        trainer: Of the stage.
        apart: Which tokens those are, as a sentence.
        lost: What becomes of them where entropy chooses the tokens that are trained.
    """
    given = {key: trainer.get(key, default("grpo", key)) for key in ("loss_type", "importance_sampling_level")}
    if given["loss_type"] == "vespo":
        yield "loss_type", f"found 'vespo', which weighs whole rollouts, and {apart}; use another"
    if given["importance_sampling_level"] != "token":
        found = shown(given["importance_sampling_level"])
        yield "importance_sampling_level", f"found {found}, one ratio per rollout, and {apart}; set it to token"
    if (quantile := trainer.get("top_entropy_quantile", 1.0)) < 1.0:
        yield "top_entropy_quantile", f"found {quantile:g}; {lost}; leave it out"


def _unfit(spec: Thinkless | Hgpo, trainer: Mapping[str, Any]) -> dict[str, str]:
    """What would mix the first token with the others."""
    lost = f"a first token that the model is sure of would be left out of {spec.name}"
    found = dict(mixing(trainer, apart=f"{spec.name} sets the first token of each apart", lost=lost))
    loss = trainer.get("loss_type", default("grpo", "loss_type"))
    if isinstance(spec, Thinkless) and loss != "dapo":
        why = "thinkless is one mean over first tokens and one over all others, which only dapo's denominator can give"
        found["loss_type"] = f"found {shown(loss)}; {why}; set loss_type: dapo"
    return found
