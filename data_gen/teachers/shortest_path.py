"""Breadth-first search."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from laconic.data_gen.teachers.base import Step, Teacher, near, values
from laconic.rewards.procedural import MOVES, cell_name, cell_place
from laconic.rewards.records import Problem


class ShortestPath(Teacher):
    """For `path a1 to b3 open a2 b1 b2 =`.

    short, the cells passed: ``a2 b2 b3``; medium: ``a1 right a2 = 1 ; a2 down b2 = 2 ; b2 right b3 = 3``; long, every
    cell in the order in which it is found, then the way back: ``a1 to a2 = 1 ; a1 to b1 = 1 ; ... ; back b3 b2 a2 a1``.
    Where no path exists, medium counts the cells in reach, ``reach a1 a2 = 2``, long ends in ``stuck``, and short is
    direct.
    """

    def short(self, problem: Problem) -> list[Step]:
        """The cells after the start."""
        return values(_path(problem)[1:])

    def medium(self, problem: Problem) -> list[Step]:
        """The moves of the path, numbered."""
        path = _path(problem)
        if not path:
            reach = [problem.meta["start"], *(there for _, there, _ in _search(problem))]
            return [Step(f"reach {' '.join(reach)} = {len(reach)}", near(len(reach), low=0))]
        moves = zip(pairwise(path), problem.answer.split(), strict=True)
        return [
            Step(f"{here} {move} {there} = {number}", near(number, low=0))
            for number, ((here, there), move) in enumerate(moves, start=1)
        ]

    def long(self, problem: Problem, rng: Random) -> list[Step]:
        """The search itself."""
        found = list(_search(problem))
        steps = [Step(f"{here} to {there} = {distance}") for here, there, distance in found]
        parent = {there: here for here, there, _ in found}
        goal = problem.meta["goal"]
        if goal not in parent:
            return [*steps, Step("stuck")]
        back = [goal]
        while back[-1] in parent:
            back.append(parent[back[-1]])
        return [*steps, Step(f"back {' '.join(back)}")]


def _path(problem: Problem) -> list[str]:
    """The cells of the gold path, start and goal included; empty where there is none."""
    if problem.answer == "infeasible":
        return []
    path = [problem.meta["start"]]
    for move in problem.answer.split():
        path.append(_beside(path[-1], move))
    return path


def _search(problem: Problem) -> Iterator[tuple[str, str, int]]:
    """(found from, cell, distance) until the goal is found, tried in the order of `MOVES`, as the gold path is."""
    start, goal = problem.meta["start"], problem.meta["goal"]
    enterable, distance, queue = {*problem.meta["open"], goal}, {start: 0}, [start]
    for here in queue:
        for there in (_beside(here, move) for move in MOVES):
            if there in enterable and there not in distance:
                distance[there] = distance[here] + 1
                queue.append(there)
                yield here, there, distance[there]
                if there == goal:
                    return


def _beside(cell: str, move: str) -> str:
    (row, column), (down, right) = cell_place(cell), MOVES[move]
    return cell_name((row + down, column + right))
