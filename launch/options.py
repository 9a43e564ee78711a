"""What `plan` and `run` are asked for, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laconic.launch.profiles import Profile, load_profile
from laconic.recipes.resolve import Plan, resolve
from laconic.recipes.source import load_recipe


@dataclass(frozen=True, slots=True)
class Options:
    """A recipe with its overrides, and where and how it runs."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    runs: Path = Path("runs")
    profile: str = "auto"
    processes: int | None = None

    def plan(self) -> Plan:
        """The resolved recipe.

        Raises:
            LaconicError: the recipe, an override or a file it names is wrong.
        """
        return resolve(load_recipe(self.recipe, overrides=self.overrides, overlays=self.overlays), self.runs)

    def load_profile(self) -> Profile:
        """The profile, with the number of processes filled in.

        Raises:
            LaunchError: there is no such profile or it cannot start so many processes.
        """
        return load_profile(self.profile, processes=self.processes)

    def science(self) -> list[str]:
        """The arguments that name the recipe and its overrides, as typed; the machine's part is left out."""
        sets = [part for override in self.overrides for part in ("--set", override)]
        overlays = [part for name in self.overlays for part in ("--overlay", name)]
        runs = [] if self.runs == Path("runs") else ["--runs", str(self.runs)]
        return [str(self.recipe), *sets, *overlays, *runs]
