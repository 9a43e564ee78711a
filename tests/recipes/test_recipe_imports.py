from __future__ import annotations

import subprocess
import sys


def test_recipes_load_no_heavy_library(chain):
    """Reading and resolving a recipe, and everything a stage process does before its own work."""
    code = """
import pkgutil, sys
import laconic.recipes
for module in pkgutil.iter_modules(laconic.recipes.__path__):
    __import__(f"laconic.recipes.{module.name}")
from pathlib import Path
from laconic.recipes.resolve import resolve
from laconic.recipes.source import load_recipe
assert len(resolve(load_recipe(sys.argv[1]), Path("runs")).stages) == 7
heavy = {"torch", "transformers", "trl", "datasets", "accelerate", "peft", "reasoning_gym", "math_verify"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(chain)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
