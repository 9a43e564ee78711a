"""`policies:` of an eval stage: which inference policies answer its problems, and what they may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import InitErrorDetails

from laconic.recipes.strict import Listed, NotEmpty, StrictModel, mistake
from laconic.rewards.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from laconic.inference.policies.choose import Choice


def _policy_schema(schema: dict[str, Any]) -> None:
    """Name the policies; all other keys are parameters of the one that is named."""
    from laconic.inference.policies import POLICIES

    schema["properties"]["name"]["enum"] = sorted(POLICIES)


class PolicyEntry(StrictModel):
    """A registered inference policy; further keys are its parameters (`laconic list policies`)."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_policy_schema)

    name: str
    label: str | None = None
    """What tables call it; unset means the name with its parameters."""
    models: Annotated[tuple[str, ...], Listed, NotEmpty] | None = None
    """The models it is tried with; unset means all of the stage."""

    @property
    def choice(self) -> Choice:
        """The policy with its parameters and label."""
        from laconic.inference.policies.choose import choice_of

        return choice_of({"name": self.name, "label": self.label or "", **(self.model_extra or {})})

    @model_validator(mode="after")
    def _is_legal(self) -> Self:
        # What policies need of an engine, the one of eval stages has; steering and edits of the cache if the model's
        # architecture allows them, which shows when it is loaded.
        self.choice  # noqa: B018 - raises
        return self


class Prices(StrictModel):
    """Money for a million tokens, in any currency."""

    prompt: Annotated[float, Field(ge=0.0)]
    """Read: prompts, and text that policies put in."""
    generated: Annotated[float, Field(ge=0.0)]


def check_policies(
    policies: Sequence[PolicyEntry], scorer: str | None, models: Sequence[str] | None
) -> list[InitErrorDetails]:
    """What is wrong with the policies of a stage as a whole.

    Args:
        policies: All of them.
        scorer: The stage's.
        models: The stage's, which are also the further engines that a policy may ask; None: not known yet.
    """
    wrong, labels = [], set()
    for at, entry in enumerate(policies):
        choice = entry.choice
        key = file_name(choice.label)
        if key in labels or key == file_name("none"):
            why = (
                f"{choice.label!r} is taken (labels name files: only letters, digits, '.', '_' and '-' tell them apart)"
            )
            wrong.append(mistake(("policies", at, "label"), f"{why}; give this policy another label"))
        labels.add(key)
        names = choice.registered.engine_names(choice.build())
        if models is not None and (foreign := [name for name in names if name not in models]):
            why = f"policy {entry.name} asks {', '.join(foreign)}, no model of this stage"
            wrong.append(mistake(("policies", at), f"{why}; its engines are models by name: {', '.join(models)}"))
        if choice.registered.lacks_scorer(choice.build()) and scorer is None:
            message = f"policy {entry.name} needs a scorer; name one for the stage: steps, gold or module:function"
            wrong.append(mistake(("scorer",), message))
    if scorer is not None:
        wrong += _check_scorer(scorer)
    return wrong


def _check_scorer(name: str) -> list[InitErrorDetails]:
    if ":" in name:
        return []  # the user's own module may not be there where a plan is made
    from laconic.data_gen.scorers import find_scorer

    try:
        find_scorer(name)
    except RecipeError as error:
        return [mistake(("scorer",), f"{error.message}; {error.cure}")]
    return []


def file_name(label: str) -> str:
    """The name of the file that holds a policy's rollouts, without its ending.

    >>> file_name("short_mk: k=8, m=3")
    'short_mk-k-8-m-3'
    """
    kept = "".join(character if character.isalnum() or character in "._-" else " " for character in label)
    return "-".join(kept.split()) or "-"
