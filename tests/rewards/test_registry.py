"""Names and parameters as recipes give them: what is refused, and with which words."""

import sys
from typing import Literal

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group, build, check, reward
from laconic.rewards.docstring import read
from laconic.rewards.errors import DataError, RecipeError


@pytest.fixture
def toy():
    @reward(paper="-", scope="rollout")
    def toy(group: Group, *, shape: Literal["flat", "steep"] = "flat", strict: bool = False) -> np.ndarray:
        """A toy."""
        return group.length * (2.0 if shape == "steep" else 1.0)

    yield
    del REWARDS["toy"]


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("eficient_reasoning", {}, "did you mean efficient_reasoning"),
        ("nothing_like_it", {}, "the rewards are a_dlp, accuracy"),
        ("efficient_reasoning", {"alfa": 0.1}, "did you mean alpha"),
        ("efficient_reasoning", {"alpha": 1.5}, "between 0 and 1"),
        ("efficient_reasoning", {"alpha": "high"}, "a float"),
        ("efficient_reasoning", {"alpha": True}, "a float"),
        ("accuracy", {"weight_of": 1}, "(none)"),
    ],
)
def test_refused(name, parameters, words):
    with pytest.raises(RecipeError) as caught:
        check(name, parameters)
    assert words in str(caught.value)


@pytest.mark.usefixtures("toy")
def test_choices_and_flags():
    check("toy", {"shape": "steep", "strict": True})
    with pytest.raises(RecipeError, match="one of flat, steep"):
        check("toy", {"shape": "round"})
    with pytest.raises(RecipeError, match="a bool"):
        check("toy", {"strict": 1})
    assert build("toy", {"shape": "steep"})(Group.of([True], [3])).tolist() == [6.0]


def test_missing_column_is_named():
    with pytest.raises(DataError, match="'text'"):
        REWARDS["format"](Group.of([True], [3]))


REGISTRATIONS = {
    "a column that is not there": (
        '@reward(paper="-", needs=("serches",))\ndef mine(group): ...',
        "did you mean searches",
    ),
    "no annotation": ('@reward(paper="-")\ndef mine(group, *, slope=1.0): ...', "'slope' has no annotation"),
    "no default": ('@reward(paper="-")\ndef mine(group, *, slope: float): ...', "'slope' has no default"),
    "a list": ('@reward(paper="-")\ndef mine(group, *, slopes: list[float] = []): ...', "'slopes' is annotated list"),
    "a word of recipes": ('@reward(paper="-")\ndef mine(group, *, weight: float = 1.0): ...', "not be named 'weight'"),
}


@pytest.mark.parametrize("case", REGISTRATIONS)
def test_a_wrong_registration_is_refused_in_words(case):
    code, words = REGISTRATIONS[case]
    with pytest.raises(RecipeError, match=words):
        exec(code, {"reward": reward, "__name__": "somebody"})
    assert "mine" not in REWARDS


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Somebody's package with a reward of their own, one with a name of ours, and one imported into its front."""
    head = "from laconic.rewards import reward\nimport numpy as np\n"
    body = "(group, *, by: float = 2.0):\n    return by * np.ones(group.size)\n"
    folder = tmp_path / "somebodys"
    folder.mkdir()
    (folder / "inner.py").write_text(
        f'{head}@reward(paper="-")\ndef twice{body}\n@reward(paper="-")\ndef hapo{body}\n\ndef plain(): ...\n'
    )
    (folder / "__init__.py").write_text("from somebodys.inner import twice\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    REWARDS.pop("twice", None)
    for name in ("somebodys", "somebodys.inner"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("package")
def test_rewards_of_other_packages_are_named_by_their_place():
    group = Group.of([True, False], [1, 1])
    for place in ("somebodys.inner:twice", "somebodys:twice", "somebodys.inner:hapo"):
        assert build(place, {"by": 3.0})(group).tolist() == [3.0, 3.0]
    assert build("hapo")(group).tolist() == [1.0, 0.0]  # ours keeps its name
    for place, words in {
        "somebodys.inner:twic": "did you mean twice",
        "somebodys.inner:plain": "no registered reward",
        "nobodys:thing": "No module named",
        ":thing": "Empty module name",
    }.items():
        with pytest.raises(RecipeError, match=words):
            check(place, {})


@pytest.mark.usefixtures("package")
def test_a_cell_run_twice_replaces_the_reward():
    names = {"reward": reward, "np": np, "__name__": "notebook"}
    try:
        for value in (1.0, 2.0):
            exec(f'@reward(paper="-")\ndef cell(group):\n    return np.full(group.size, {value})', names)
            assert build("cell")(Group.of([True], [1])).tolist() == [value]
    finally:
        REWARDS.pop("cell", None)


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_an_array_of_the_wrong_shape_is_refused(scope):
    try:
        exec(f'@reward(paper="-", scope="{scope}")\ndef scalar(given):\n    return np.ones(3)', globals())
        with pytest.raises(DataError, match="reward scalar gave an array of shape"):
            build("scalar")(Group.of([True, False], [1, 1]))
    finally:
        REWARDS.pop("scalar", None)


@pytest.mark.parametrize("text", [None, "One line.", "One line.\n\nMore words, and no section.\n"])
def test_a_docstring_without_sections_can_be_read(text):
    def bare(): ...

    bare.__doc__ = text
    documentation = read(bare)
    assert {"formula", "deviations", "gaming", "source", "example"} <= set(documentation.missing)
