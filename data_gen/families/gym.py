"""Families drawn from reasoning-gym, with its traps closed.

- Its generators use ``Random(seed + index)``, so neighbouring seeds share all items but one: `Family.generate` hashes
  the seed, and splits are made by canonical input (`laconic.data_gen.split`), never by seed.
- ``ReseedingDataset`` repeats most of its items: an ordinary dataset is indexed without end instead.
- Its scorers give partial credit and credit for junk: they are not used at all; answers are checked by
  `laconic.rewards`.
- Only families that are reproducible across processes are wrapped.
- Its English questions are replaced by short symbolic prompts made from the metadata.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import count
from typing import Any

from laconic.data_gen.families.base import Draw, Family
from laconic.rewards.errors import LaunchError


class GymFamily(Family):
    """A family whose problems are drawn by the reasoning-gym generator of the same name."""

    @abstractmethod
    def read(self, entry: dict[str, Any]) -> Draw | None:
        """Turn one reasoning-gym entry into a problem; None leaves it out."""

    def config(self, options: dict[str, int | float]) -> dict[str, int | float]:
        """The generator's own configuration; by default our options are its options."""
        return options

    def draws(self, seed: int, options: dict[str, int | float]) -> Iterator[Draw]:
        """See `Family.draws`."""
        dataset = _reasoning_gym().create_dataset(self.name, seed=seed, **self.config(options))
        return filter(None, (self.read(dataset[index]) for index in count()))


def _reasoning_gym() -> Any:
    try:
        import reasoning_gym  # takes a second: only when problems are really drawn
    except ModuleNotFoundError:
        cure = "install the training extra: pip install 'laconic[train]'"
        raise LaunchError("problems.source is reasoning_gym, which is not installed", cure=cure) from None
    return reasoning_gym
