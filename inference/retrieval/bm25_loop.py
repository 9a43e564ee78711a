"""The loop of BM25 as numba compiles it; as plain Python it is right too, and slow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_loop(
    data: NDArray[np.float32],
    indices: NDArray[np.int32],
    indptr: NDArray[np.int64],
    words: NDArray[np.int32],
    starts: NDArray[np.int64],
    documents: int,
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """As `best_numpy`, to the last bit: the same scores are added in the same order."""
    queries = len(starts) - 1
    places = np.full((queries, k), -1, dtype=np.int32)
    best = np.zeros((queries, k), dtype=np.float32)
    scores = np.zeros(documents, dtype=np.float32)
    for row in range(queries):
        for at in range(starts[row], starts[row + 1]):
            for pair in range(indptr[words[at]], indptr[words[at] + 1]):
                scores[indices[pair]] += data[pair]
        filled = 0
        for at in range(starts[row], starts[row + 1]):
            for pair in range(indptr[words[at]], indptr[words[at] + 1]):
                place = indices[pair]
                score = scores[place]
                # Read once and set back, which also readies the next query.
                scores[place] = 0
                slot = min(filled, k - 1)
                last = best[row, k - 1], places[row, k - 1]
                if score <= 0 or (filled == k and (score < last[0] or (score == last[0] and place > last[1]))):
                    continue
                filled = min(filled + 1, k)
                while slot > 0 and (
                    best[row, slot - 1] < score or (best[row, slot - 1] == score and places[row, slot - 1] > place)
                ):
                    best[row, slot], places[row, slot] = best[row, slot - 1], places[row, slot - 1]
                    slot -= 1
                best[row, slot], places[row, slot] = score, place
    return places, best
