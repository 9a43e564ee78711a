from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from laconic.recipes.resolve import Plan, resolve
from laconic.recipes.source import load_recipe

CHAIN = """\
name: chain
seed: 3
problems: {source: reasoning_gym, families: [chain_sum], options: {chain_sum: {max_terms: 4}}, train: 400, test: 40}
model: {scratch: {hidden_size: 32, layers: 1}}
defaults:
  trainer: {learning_rate: 1e-4, num_generations: 4, packing: false}
  sampling: {max_tokens: 64, temperature: 0.7}
  samples: 2
stages:
  - {kind: generate, name: teach, teacher: {styles: {overthink: 0.7, short: 0.3}}}
  - kind: sft
    trainer:
      learning_rate: 2e-3
    batch_size: 32
  - {kind: generate, name: pairs, samples: 8, keep: shortest_vs_longest, sampling: {temperature: 1.0}}
  - {kind: dpo}
  - {kind: grpo, rewards: [{name: efficient_reasoning, alpha: 0.2}], batch_size: 16}
  - {kind: eval}
overlays:
  tiny: {problems.train: 64, "sft.trainer.max_steps": 2, "grpo.rewards[0].alpha": 0.5}
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A recipe file with every kind of stage."""
    file = tmp_path / "chain.yaml"
    file.write_text(CHAIN)
    return file


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """Writes the chain recipe with pieces of its text replaced; each piece must stand there once."""

    def write(*changes: tuple[str, str]) -> Path:
        text = CHAIN
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        file = tmp_path / "edited.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def planned(chain: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Resolves the chain recipe with overrides."""

    def plan(*overrides: str) -> Plan:
        return resolve(load_recipe(chain, overrides=overrides), tmp_path / "runs")

    return plan
