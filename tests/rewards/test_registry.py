"""Names and parameters as recipes give them: what is refused, and with which words."""

from typing import Literal

import numpy as np
import pytest

from laconic.rewards import REWARDS, Group, build, check, reward
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
