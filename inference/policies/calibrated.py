"""A stopping policy with the threshold that was calibrated for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from laconic.inference.engine import Sampling, check_capabilities
from laconic.inference.policies.base import Answer, Ask, Policy, find, policy
from laconic.inference.policies.probing import NEEDS

if TYPE_CHECKING:
    from laconic.inference.calibration import Calibration


@policy(paper="-", requires=NEEDS)
@dataclass(frozen=True)
class Calibrated:
    """A stopping policy with the threshold and the parameters of a calibration, as `laconic calibrate` writes it.

    The guarantee holds for questions from where the recorded ones came from, asked of the model and with the sampling
    they were recorded with. One model has many names (a folder, a hub id, what a server calls it), so another name is
    no proof that the artefact does not fit: it is not refused. `notes["calibration"]` has the model's name and says
    what is known to differ; commands print it.

    Source: ours.

    Args:
        artefact: The file. On a command line ``calibrated:FILE.json``.

    Raises:
        DataError: the file is missing, damaged or edited.
        RecipeError: it is about a policy or a parameter that there is not.
    """

    artefact: str

    main_parameter: ClassVar[str] = "artefact"

    def __post_init__(self) -> None:
        # A file that cannot be used shows where the policy is chosen, not at the first question.
        _ = self.rule

    @cached_property
    def calibration(self) -> Calibration:
        """What the file holds."""
        # It imports recordings, and these the policies.
        from laconic.inference.calibration import Calibration

        return Calibration.load(self.artefact)

    @cached_property
    def rule(self) -> Policy:
        """The policy that the file is about, with its threshold."""
        return find(self.calibration.policy).build(self.calibration.parameters())

    def misfits(self, *, sampling: Sampling, model: str | None = None) -> tuple[str, ...]:
        """In what an ask differs from what the guarantee is for; nothing where it is not known to differ.

        Args:
            sampling: How completions are drawn.
            model: Name of the model.
        """
        recorded = self.calibration.provenance.get("sampling", {})
        asked = {key: getattr(sampling, key) for key in recorded}
        differing = [
            f"{key} {asked[key]}, calibrated with {value}" for key, value in recorded.items() if value != asked[key]
        ]
        if model is not None and self.calibration.model not in ("", model):
            differing.append(f"model {model}, calibrated with {self.calibration.model}")
        return tuple(differing)

    async def run(self, ask: Ask) -> Answer:
        """As the policy with this threshold does."""
        made = self.calibration
        check_capabilities(ask.engine, find(made.policy).requires, who=f"the calibrated policy {made.policy}")
        answer = await self.rule.run(ask)
        about: dict[str, Any] = {
            "policy": made.policy,
            "threshold": made.threshold if math.isfinite(made.threshold) else str(made.threshold),
            "target": str(made.target),
            "model": made.model,
            "differs": list(self.misfits(sampling=ask.sampling)),
        }
        return replace(answer, notes={**answer.notes, "calibration": about})
