"""Shortest paths on small grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from laconic.data_gen.families.base import Draw, Option
from laconic.data_gen.families.gym import GymFamily
from laconic.data_gen.symbols import SLIP, numbers
from laconic.rewards.procedural import MOVES, cell_name, cell_place
from laconic.rewards.records import Problem

Place = tuple[int, int]


class ShortestPath(GymFamily):
    """`path a1 to b3 open a2 b1 b2 =` -> `right down right`, any shortest one; `infeasible` where there is none.

    The row of a cell is its letter, the column its number. Cells that are not named are blocked.
    """

    name = "shortest_path"
    summary = "shortest way over open cells of a grid: path a1 to b3 open a2 b1 b2 ="
    declared: ClassVar[dict[str, Option]] = {
        "min_rows": Option(4, 2, 9, "fewest rows"),
        "max_rows": Option(5, 2, 9, "most rows"),
        "min_cols": Option(4, 2, 9, "fewest columns"),
        "max_cols": Option(5, 2, 9, "most columns"),
        "p_blocked": Option(0.3, 0.0, 1.0, "probability that a cell is blocked"),
    }

    def read(self, entry: dict[str, Any]) -> Draw:
        """See `GymFamily.read`; meta holds `start`, `goal` and the `open` cells between them."""
        cells: dict[str, list[str]] = {"*": [], "#": [], "O": [], "X": []}
        for row, line in enumerate(entry["metadata"]["matrix"]):
            for column, kind in enumerate(line):
                cells[kind].append(cell_name((row, column)))
        meta = {"start": cells["*"][0], "goal": cells["#"][0], "open": cells["O"]}
        prompt = " ".join(["path", meta["start"], "to", meta["goal"], "open", *meta["open"], "="])
        return Draw(prompt, entry["answer"], meta)

    def canonical(self, problem: Problem) -> str:
        """The smallest text among all shifts, rotations, reflections and exchanges of start and goal."""
        ends = cell_place(problem.meta["start"]), cell_place(problem.meta["goal"])
        between = [cell_place(name) for name in problem.meta["open"]]
        return f"shortest_path:{min(_images(ends, between))}"

    def difficulty(self, problem: Problem) -> float:
        """Moves of the shortest path; where there is none, how many cells are open."""
        moves = problem.answer.split()
        return len(problem.meta["open"]) if moves == ["infeasible"] else len(moves)

    def words(self, options: dict[str, int | float]) -> set[str]:
        """See `Family.words`."""
        rows, columns = int(options["max_rows"]), int(options["max_cols"])
        cells = {cell_name((row, column)) for row in range(rows) for column in range(columns)}
        spoken = {"path", "to", "open", "reach", "back", "stuck", "infeasible"}
        return cells | numbers(0, rows * columns + SLIP) | set(MOVES) | spoken


def _images(ends: tuple[Place, Place], between: list[Place]) -> Iterator[tuple[list[Place], list[Place]]]:
    """The grid under its eight symmetries, moved to the corner; start and goal unordered."""
    places = [*ends, *between]
    for flip_row in (1, -1):
        for flip_column in (1, -1):
            turned = [(flip_row * row, flip_column * column) for row, column in places]
            for image in (turned, [(column, row) for row, column in turned]):
                top, left = min(row for row, _ in image), min(column for _, column in image)
                moved = [(row - top, column - left) for row, column in image]
                yield sorted(moved[:2]), sorted(moved[2:])
