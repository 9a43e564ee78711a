"""The rollouts of an optimiser step as micro-batches: what can be left out, and which process takes which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import pad

from laconic.training.loss_shares import loss_weight, token_share
from laconic.training.micro_batches import (
    PROMPT_FIELDS,
    Batch,
    Rounds,
    Size,
    default_budget,
    plan_apart,
    plan_rounds,
    select,
    trimmed,
    width,
)
from laconic.training.scored import loss_mask


class MicroBatch(dict[str, Any]):
    """Rollouts of one forward and backward pass.

    Attributes:
        weight: What TRL's loss of them is multiplied by.
        bonus_weight: The same for TRL's entropy bonus, always a mean over tokens.
        held: Tokens in it, without padding.
        rows: Rollouts in it; 0 if it holds a stand-in.
        tokens: Of these, tokens in the loss.
    """

    def __init__(self, fields: Batch, *, weight: float, bonus_weight: float, held: int, rows: int, tokens: int) -> None:
        super().__init__(fields)
        self.weight, self.bonus_weight = weight, bonus_weight
        self.held, self.rows, self.tokens = held, rows, tokens


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a rollout on every process."""

    size: Size
    tokens: int
    """In the loss."""
    signal: bool
    """Whether it can change the gradient."""
    prompt: int
    """The same number for the same prompt."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How rollouts are laid out.

    Attributes:
        loss_type: TRL's name of the loss.
        batch_rows: Rollouts of TRL's micro-batch.
        budget: Tokens of one forward pass, padding included; None stands for `default_budget`.
        keep_all: No rollout is left out for having an advantage of zero.
        balanced: Processes exchange rollouts, so that each has as much work.
        multiple: Widths are multiples of this.
        shared: A forward pass reads the prompts that its rollouts share once.
    """

    loss_type: str
    batch_rows: int
    budget: int | None
    keep_all: bool
    balanced: bool
    multiple: int | None = None
    shared: bool = False


class Segment:
    """Rollouts whose loss has one denominator; built by all processes at once.

    Args:
        batch: This process's rollouts, as many as on every other process.
        layout: How they are laid out.
        accelerator: Knows the other processes.
    """

    def __init__(self, batch: Batch, layout: Layout, accelerator: Accelerator) -> None:
        self.layout, self.processes = layout, accelerator.num_processes
        self.table = _table(batch, accelerator, keep_all=layout.keep_all)
        per_process = len(self.table) // self.processes
        first = accelerator.process_index * per_process
        self.own_tokens = sum(row.tokens for row in self.table[first : first + per_process])
        self._stand_in, self._device = _stand_in(batch), accelerator.device
        self.rounds = self._plan(per_process)
        mine = [chosen[accelerator.process_index] for chosen in self.rounds]
        if layout.balanced and self.processes > 1:
            self._batch = exchange(batch, [row for rows in mine for row in rows], accelerator)
            ends = torch.tensor([0, *map(len, mine)]).cumsum(0).tolist()
            self._places = [list(range(start, end)) for start, end in pairwise(ends)]
        else:
            self._batch = batch
            self._places = [[row - first for row in rows] for rows in mine]
        self._mine = mine

    def __len__(self) -> int:
        return len(self.rounds)

    @property
    def skipped(self) -> int:
        """Rollouts left out, on all processes."""
        return sum(not row.signal for row in self.table)

    def add_empty_round(self) -> None:
        """A round of stand-ins, where no rollout changes the gradient: the optimiser makes its step all the same."""
        self.rounds.append([[] for _ in range(self.processes)])
        self._mine.append([])
        self._places.append([])

    def micro_batch(self, at: int) -> MicroBatch:
        """This process's part of a round."""
        layout, rows = self.layout, [self.table[row] for row in self._mine[at]]
        if not rows:
            return MicroBatch(self._stand_in, weight=0.0, bonus_weight=0.0, held=0, rows=0, tokens=0)
        tokens, held = sum(row.tokens for row in rows), sum(sum(row.size) for row in rows)
        size = width([row.size for row in rows], multiple=layout.multiple)
        weight = loss_weight(
            layout.loss_type,
            rows=len(rows),
            tokens=tokens,
            of_rows=layout.batch_rows,
            of_tokens=self.own_tokens,
        )
        fields = trimmed(select(self._batch, self._places[at]), size)
        bonus_weight = token_share(tokens, self.own_tokens)
        return MicroBatch(fields, weight=weight, bonus_weight=bonus_weight, held=held, rows=len(rows), tokens=tokens)

    def _plan(self, per_process: int) -> Rounds:
        longest = sum(width([row.size for row in self.table]))
        budget = self.layout.budget or default_budget(self.layout.batch_rows * longest, self._device)
        kept = [number for number, row in enumerate(self.table) if row.signal]
        if self.layout.balanced or self.processes == 1:
            rounds = plan_rounds(
                self._sizes(kept), processes=self.processes, budget=budget, prompts=self._prompts(kept)
            )
            return [[[kept[place] for place in rows] for rows in chosen] for chosen in rounds]
        own = [[number for number in kept if number // per_process == process] for process in range(self.processes)]
        rounds = plan_apart(list(map(self._sizes, own)), budget=budget, prompts=list(map(self._prompts, own)))
        return [[[own[process][place] for place in rows] for process, rows in enumerate(chosen)] for chosen in rounds]

    def _sizes(self, numbers: Sequence[int]) -> list[Size]:
        return [self.table[number].size for number in numbers]

    def _prompts(self, numbers: Sequence[int]) -> list[int] | None:
        return [self.table[number].prompt for number in numbers] if self.layout.shared else None


def merged(batches: Sequence[Batch]) -> Batch:
    """Micro-batches of one generation as one."""
    if len(batches) == 1:
        return batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if field.ndim else field
        for name, field in batches[0].items()
    }


def joined(first: Batch, second: Batch) -> Batch:
    """Rollouts of two generations as one batch, as wide as the wider one; what is not per row is the first's."""
    return {
        name: torch.cat(_of_one_width(name, field, second[name])) if field.ndim else field
        for name, field in first.items()
    }


def exchange(batch: Batch, rows: Sequence[int], accelerator: Accelerator) -> Batch:
    """Rows of all processes, numbered one process after the other; every process asks for its own.

    Args:
        batch: This process's rollouts.
        rows: The ones it will have.
        accelerator: Knows the other processes.
    """
    fields = {name: field for name, field in batch.items() if field.ndim}
    # Every process has padded to its own longest.
    mine = torch.tensor([field.size(1) if field.ndim == 2 else 1 for field in fields.values()])
    columns = accelerator.gather(mine[None].to(accelerator.device)).amax(0).tolist()
    widths = dict(zip(fields, columns, strict=True))
    by_dtype: dict[torch.dtype, list[str]] = defaultdict(list)
    for name, field in fields.items():
        by_dtype[field.dtype].append(name)
    index = torch.tensor(rows, dtype=torch.long, device=accelerator.device)
    found = dict(batch)
    # What processes say to each other costs by the message.
    for names in by_dtype.values():
        together = [_padded(name, fields[name].reshape(len(fields[name]), -1), widths[name]) for name in names]
        taken = accelerator.gather(torch.cat(together, dim=1))[index].split([widths[name] for name in names], dim=1)
        found |= {
            name: one.view(-1, *[widths[name]] * (fields[name].ndim - 1))
            for name, one in zip(names, taken, strict=True)
        }
    return found


def _of_one_width(name: str, *fields: torch.Tensor) -> list[torch.Tensor]:
    if fields[0].ndim < 2:
        return list(fields)
    columns = max(field.size(1) for field in fields)
    return [_padded(name, field, columns) for field in fields]


def _padded(name: str, field: torch.Tensor, columns: int) -> torch.Tensor:
    more = columns - field.size(1)
    return pad(field, (more, 0) if name in PROMPT_FIELDS else (0, more), value=_padding(name))


def _padding(name: str) -> int:
    # TRL's vespo sums the logarithm of ratios over padding too.
    return 1 if name == "importance_sampling_ratio" else 0


def _table(batch: Batch, accelerator: Accelerator, *, keep_all: bool) -> list[Row]:
    """Every rollout of every process."""
    mask = batch["completion_mask"]
    tokens = loss_mask(batch).sum(1)
    signal = tokens > 0
    if not keep_all:
        signal = signal & (batch["advantages"] != 0).view(len(mask), -1).any(1)
    columns = [batch["prompt_mask"].sum(1), mask.sum(1), tokens, signal.long(), _prompt_numbers(batch)]
    gathered = accelerator.gather(torch.stack(columns, dim=1).long()).tolist()
    return [Row((prompt, completion), count, bool(some), same) for prompt, completion, count, some, same in gathered]


def _prompt_numbers(batch: Batch) -> torch.Tensor:
    """A number for each row's prompt, on every process the same whatever it is padded to; shape (B,)."""
    ids, mask = batch["prompt_ids"], batch["prompt_mask"]
    # Powers of an odd number, overflowing; the last token has the first.
    powers = torch.full((ids.size(1),), 0x5851F42D4C957F2D, device=ids.device).cumprod(0).flip(0)
    return ((ids + 1) * mask * powers).sum(1)


def _stand_in(batch: Batch) -> Batch:
    """A rollout with nothing in the loss, for a process that has none left while others still train.

    It takes part in everything that processes do together, and its gradient is zero. It is two tokens long: what has
    one column TRL takes for one number per rollout, and looks at no mask.
    """
    prompt_tokens = batch["prompt_mask"].sum(1)
    row = trimmed(select(batch, [int(prompt_tokens.argmin())]), (max(1, int(prompt_tokens.min())), 2))
    silent = {name: torch.zeros_like(field) for name, field in row.items() if field.is_floating_point() and field.ndim}
    return row | silent | {"completion_mask": torch.zeros_like(row["completion_mask"])}
