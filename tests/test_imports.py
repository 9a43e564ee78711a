"""Who imports whom, and what loads without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "rewards": set(),
    "inference": {"rewards"},
    "data_gen": {"rewards", "inference"},
    "recipes": {"rewards", "inference", "data_gen"},
    "training": {"rewards", "inference", "data_gen", "recipes"},
    "eval": {"rewards", "inference", "data_gen", "recipes"},
    "launch": {"rewards", "inference", "data_gen", "recipes", "eval"},
}
# A stage's entry point reads its stage file; nothing else of data_gen may know of recipes.
EXCEPTIONS = {("data_gen/stage.py", "recipes")}
# The engine that runs the model in this process; nothing else of inference may load it.
TORCH_ENGINE = {
    f"laconic.inference.engines.{name}"
    for name in (
        *("transformers", "branch", "decode_loop", "passes", "kv", "strands", "draw", "loading"),
        *("inside", "insights", "live", "steering"),
    )
}
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "reasoning_gym", "math_verify", "matplotlib")


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for inner in ast.walk(block)}


def imported(path: Path) -> set[str]:
    """Packages of Laconic that a file imports when it runs."""
    tree = ast.parse(path.read_text())
    skipped = type_checking_only(tree)
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("laconic.")}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        foreign = imported(path) - ALLOWED[package] - {package}
        assert {name for name in foreign if (place, name) not in EXCEPTIONS} == set(), place


@pytest.mark.parametrize("package", ["rewards", "inference", "recipes", "launch"])
def test_package_loads_without_heavy_libraries(package):
    modules = [
        "laconic." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    modules = [name for name in modules if name not in TORCH_ENGINE]
    script = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
