"""TF-IDF cosine similarity of one text with a few others, as scikit-learn's `TfidfVectorizer` defines it by default.

Words are runs of two or more word characters in lower case; a word in d of n texts weighs ``ln((1 + n) / (1 + d)) + 1``
times its count. The n texts are the one that is compared and those it is compared with.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"\b\w\w+\b")


@lru_cache(maxsize=16384)
def similarities(text: str, others: tuple[str, ...]) -> tuple[float, ...]:
    """Cosine of `text` with each of `others`, from 0 to 1; 0 where one of the two has no word.

    >>> similarities("red apple", ("red apple", "green pear"))
    (1.0, 0.0)
    """
    counts = [_counts(item) for item in (text, *others)]
    spread = Counter(word for count in counts for word in count)
    weight = {word: math.log((1 + len(counts)) / (1 + found)) + 1.0 for word, found in spread.items()}
    mine, *theirs = ({word: count[word] * weight[word] for word in count} for count in counts)
    return tuple(_cosine(mine, vector) for vector in theirs)


@lru_cache(maxsize=16384)
def _counts(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    shared = sum(value * other[word] for word, value in one.items() if word in other)
    # Rounding must not lift a perfect match above 1.
    return min(shared / (_norm(one) * _norm(other)), 1.0) if shared else 0.0


def _norm(vector: dict[str, float]) -> float:
    return math.sqrt(sum(value * value for value in vector.values()))
