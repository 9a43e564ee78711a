"""Who uses whose output: the references between stages, checked and filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import InitErrorDetails

from laconic.recipes.stages import BaseStage, DpoStage, EvalStage, GenerateStage, GrpoStage, SftStage, TrainingStage
from laconic.recipes.strict import mistake, suggest

BASE = "base"
"""The name by which stages refer to the recipe's own model."""


@dataclass(frozen=True)
class Link:
    """What one stage uses."""

    roles: dict[str, str]
    """Role (`model`, `data`, `reference`, `model:<name>`) -> name of a stage, or `base`."""
    filled: dict[str, Any]
    """The stage's reference keys, with the names that were left out."""


def link(stages: Sequence[BaseStage]) -> tuple[list[Link], list[InitErrorDetails]]:
    """Resolve every reference; the second part is what is wrong, with places like ``("stages", 2, "model")``."""
    links, wrong = [], []
    for at, stage in enumerate(stages):
        linker = _Linker(stages, at)
        links.append(linker.link(stage))
        wrong += linker.wrong
    return links, wrong


class _Linker:
    """Resolves the references of the stage at one position."""

    def __init__(self, stages: Sequence[BaseStage], at: int) -> None:
        self.stages = stages
        self.at = at
        self.models = [BASE, *(stage.name for stage in stages[:at] if stage.makes_model)]
        self.wrong: list[InitErrorDetails] = []

    def link(self, stage: BaseStage) -> Link:
        if isinstance(stage, EvalStage):
            return self._link_eval(stage)
        filled = {}
        if isinstance(stage, TrainingStage) or (isinstance(stage, GenerateStage) and stage.teacher is None):
            filled["model"] = self._model("model", stage.model)
        if isinstance(stage, SftStage | DpoStage):
            filled["data"] = self._data(stage.data, "sft" if isinstance(stage, SftStage) else "preference")
        if isinstance(stage, GrpoStage) and stage.reference is not None:
            filled["reference"] = self._reference(stage.reference)
        return Link(roles=dict(filled), filled=filled)

    def _link_eval(self, stage: EvalStage) -> Link:
        every = tuple(self.models[1:]) or (BASE,)
        models = every if stage.models is None else stage.models
        for position, name in enumerate(models):
            self._model(("models", position), name)
            if name in models[:position]:
                self._refuse(("models", position), f"{name!r} is named twice")
        baseline = stage.baseline or models[0]
        if baseline not in models:
            self._refuse(("baseline",), f"{baseline!r} is not one of models; {suggest(baseline, models)}")
        for at, policy in enumerate(stage.policies):
            for position, name in enumerate(policy.models or ()):
                if name not in models:
                    place = ("policies", at, "models", position)
                    self._refuse(place, f"{name!r} is not one of the stage's models; {suggest(name, models)}")
        return Link({f"model:{name}": name for name in models}, {"models": models, "baseline": baseline})

    def _model(self, key: str | tuple[str | int, ...], name: str | None) -> str:
        if name is None:
            return self.models[-1]
        place = (key,) if isinstance(key, str) else key
        self._check(place, name, self.models, "makes no model", lambda stage: stage.makes_model)
        return name

    def _data(self, name: str | None, rows: str) -> str:
        def fits(stage: BaseStage) -> bool:
            return isinstance(stage, GenerateStage) and stage.rows == rows

        legal = [stage.name for stage in self.stages[: self.at] if fits(stage)]
        if name is not None:
            self._check(("data",), name, legal, f"yields no {rows} rows (see its keep:)", fits)
        elif not legal:
            self._refuse(("data",), f"no earlier generate stage yields {rows} rows (see keep: of a generate stage)")
        return name or (legal[-1] if legal else "")

    def _reference(self, name: str) -> str:
        def fits(stage: BaseStage) -> bool:
            return isinstance(stage, GenerateStage) and not (stage.teacher or stage.gold) and stage.split == "train"

        legal = [stage.name for stage in self.stages[: self.at] if fits(stage)]
        self._check(("reference",), name, legal, "holds more or other things than a model's answers to them", fits)
        return name

    def _check(
        self, place: tuple[str | int, ...], name: str, legal: list[str], lack: str, fits: Callable[[BaseStage], bool]
    ) -> None:
        if name in legal:
            return
        named = next((stage for stage in self.stages if stage.name == name), None)
        listed = f"legal here: {', '.join(legal) or '(no earlier stage fits)'}"
        if named is None:
            self._refuse(place, f"no stage is named {name!r}; {suggest(name, legal) if legal else listed}")
        elif not fits(named):
            self._refuse(place, f"{name!r} is a {named.kind} stage and {lack}; {listed}")  # type: ignore[attr-defined]
        else:
            self._refuse(place, f"{name!r} does not come earlier; {listed}")

    def _refuse(self, place: tuple[str | int, ...], message: str) -> None:
        self.wrong.append(mistake(("stages", self.at, *place), message))
