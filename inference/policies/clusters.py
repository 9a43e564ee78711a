"""Clusters of short texts: TF-IDF and k-means, small, and the same at every run with the same seed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_WORD = re.compile(r"\b\w\w+\b")
_RESTARTS = 4
_ROUNDS = 100


def tfidf(texts: Sequence[str]) -> Matrix:
    """One row of unit length per text: counts of words of two characters or more, times log((1 + n) / (1 + df)) + 1.

    The same as scikit-learn's default. A text without words is a row of zeros.
    """
    words = [_WORD.findall(text.lower()) for text in texts]
    place = {word: number for number, word in enumerate(sorted({word for row in words for word in row}))}
    counts = np.zeros((len(texts), len(place)))
    for row, said in enumerate(words):
        for word in said:
            counts[row, place[word]] += 1
    rows = counts * (np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def kmeans(points: Matrix, clusters: int, seed: int = 0) -> list[int]:
    """The cluster of each row, by k-means from k-means++ starts; the best of four starts.

    Clusters are numbered by their first member. There are no more of them than different rows.
    """
    clusters = min(clusters, len(np.unique(points, axis=0)))
    rng = np.random.default_rng(seed)
    _, labels = min((_lloyd(points, _starts(points, clusters, rng)) for _ in range(_RESTARTS)), key=lambda run: run[0])
    number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    return [number[label] for label in labels]


def _starts(points: Matrix, clusters: int, rng: np.random.Generator) -> Matrix:
    chosen = [int(rng.integers(len(points)))]
    for _ in range(clusters - 1):
        far = _distances(points, points[chosen]).min(axis=1)
        chosen.append(int(rng.choice(len(points), p=far / far.sum())))
    return points[chosen]


def _lloyd(points: Matrix, centres: Matrix) -> tuple[float, list[int]]:
    labels = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        nearest = _distances(points, centres).argmin(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        # A cluster that lost its last member stays where it was.
        centres = np.array(
            [
                points[labels == one].mean(axis=0) if (labels == one).any() else centres[one]
                for one in range(len(centres))
            ]
        )
    return float(_distances(points, centres)[np.arange(len(points)), labels].sum()), labels.tolist()


def _distances(points: Matrix, centres: Matrix) -> Matrix:
    """Squared, shape (points, centres)."""
    return ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
