"""Follows walks and searches on a grid."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from laconic.data_gen.checkers.base import Derivation, divide, integer, require
from laconic.rewards.procedural import MOVES, cell_place, distances, is_shortest_path


@dataclass(frozen=True)
class ShortestPath(Derivation):
    """The path walked so far, or the cells that a search has found."""

    start_cell: str
    goal: str
    between: frozenset[str]
    path: tuple[str, ...]
    found: tuple[str, ...]
    closed: bool = False
    """It is shown that the goal is out of reach."""

    @classmethod
    def start(cls, prompt: str) -> Self:
        """See `Derivation.start`."""
        ends, between = divide(prompt.removesuffix("=").split(), "open")
        return cls(ends[1], ends[3], frozenset(between), (ends[1],), (ends[1],))

    def follow(self, clause: list[str]) -> Self:
        """See `Derivation.follow`."""
        require(self.path[-1] != self.goal and not self.closed, "the search is over")
        match clause:
            case [here, "to", there, "=", number]:
                return self._find(here, there, integer(number))
            case [here, move, there, "=", number] if move in MOVES:
                after = self._walk(here, there, integer(number))
                require(_move(here, there) == move, f"{there} is not {move} of {here}")
                return after
            case ["reach", *cells, "=", number]:
                return self._count(cells, integer(number))
            case ["back", *cells]:
                return self._back(cells)
            case ["stuck"]:
                require(set(self.found) == self._reach() and self.goal not in self.found, "there is more to search")
                return replace(self, closed=True)
        return self._pass(clause)

    def _away(self, end: str) -> dict[str, int]:
        """Fewest moves between a cell and every cell in its reach."""
        places = {cell_place(name): name for name in (self.start_cell, self.goal, *self.between)}
        found = distances(cell_place(end), places)
        return {places[place]: away for place, away in found.items()}

    def _reach(self) -> set[str]:
        return set(self._away(self.start_cell))

    def _walk(self, here: str, there: str, number: int) -> Self:
        require(here == self.path[-1], f"the path has come to {self.path[-1]}")
        require(number == len(self.path), f"this is move {len(self.path)}")
        away = self._away(self.goal)
        require(here in away, "the goal is out of reach")
        require(_beside(here, there) and away.get(there) == away[here] - 1, f"{there} is not one nearer to the goal")
        return replace(self, path=(*self.path, there))

    def _pass(self, cells: list[str]) -> Self:
        after = self
        for cell in cells:
            after = after._walk(after.path[-1], cell, len(after.path))
        require(after.path[-1] == self.goal, "the goal is not reached")
        return after

    def _find(self, here: str, there: str, number: int) -> Self:
        require(self.goal not in self.found, "the goal is already found")
        require(here in self.found and there not in self.found, f"{here} is not found yet, or {there} is already")
        away = self._away(self.start_cell)
        require(there in away and _beside(here, there), f"{there} cannot be entered from {here}")
        require(number == away[there] == away[here] + 1, f"{there} is {away[there]} away")
        require(number >= away[self.found[-1]], "a nearer cell comes too late")
        return replace(self, found=(*self.found, there))

    def _count(self, cells: list[str], number: int) -> Self:
        require(len(cells) == number, f"these are {len(cells)} cells")
        require(sorted(cells) == sorted(self._reach()), "not the cells in reach")
        require(self.goal not in cells, "the goal is in reach")
        return replace(self, closed=True)

    def _back(self, cells: list[str]) -> Self:
        require(cells[:1] == [self.goal] and cells[-1] == self.start_cell, "not from the goal to the start")
        require(set(cells) <= set(self.found), "a cell was not found")
        return self._pass(cells[-2::-1])

    def conclude(self, answer: str) -> None:
        """See `Derivation.conclude`."""
        if self.closed:
            require(answer == "infeasible", "the goal is out of reach")
            return
        require(self.path[-1] == self.goal, "the goal is not reached")
        moves = [_move(here, there) for here, there in pairwise(self.path)]
        require(answer.split() == moves, "not the moves of the path")

    def solves(self, answer: str) -> bool:
        """See `Derivation.solves`."""
        return is_shortest_path(answer, self.start_cell, self.goal, self.between)


def _move(here: str, there: str) -> str | None:
    require(all(re.fullmatch("[a-z][1-9]", cell) for cell in (here, there)), f"{here} or {there} is not a cell")
    (row, column), (to_row, to_column) = cell_place(here), cell_place(there)
    step = (to_row - row, to_column - column)
    return next((move for move, change in MOVES.items() if change == step), None)


def _beside(here: str, there: str) -> bool:
    return _move(here, there) is not None
