"""Sampling rollouts into a JSON Lines file that a killed run leaves usable.

The file is keyed by (problem id, sample). A run writes what is missing, in whatever order completions finish, and at
the end puts the rows in order; each rollout is drawn with a seed of its own, so the file does not show whether it was
made in one go.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from laconic.data_gen.progress import Progress
from laconic.inference.engine import Sampling
from laconic.inference.sampling import Completion, Request, Sampler
from laconic.inference.trace import TraceReader
from laconic.rewards.answers import judge
from laconic.rewards.jsonl import JsonlAppender, write_jsonl
from laconic.rewards.records import Problem, Rollout, read_rollouts

Key = tuple[str, int]

FLUSH_SECONDS = 1.0
"""A kill loses at most the rollouts of this long."""


def request_seed(seed: int, problem_id: str, sample: int) -> int:
    """The seed of one rollout, in [0, 2^63): the same for every order, batch and number of samples."""
    digest = hashlib.sha256(f"{seed}/{sample}/{problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sample_rollouts(
    sampler: Sampler,
    reader: TraceReader,
    problems: Sequence[Problem],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    path: Path,
    source: str,
) -> list[Rollout]:
    """Draw `samples` completions of every problem, verify them, and keep them in `path`.

    What `path` already holds is kept and not drawn again. Must run in the main thread: math-verify uses signals.

    Args:
        sampler: Draws the completions.
        reader: Splits them into thinking and answer.
        problems: With distinct ids.
        samples: Completions per problem.
        sampling: How they are drawn.
        seed: Of the stage; see `request_seed`.
        path: A `rollouts.jsonl`, new or from a killed run of the same stage.
        source: Noted in each rollout: who answered.

    Returns:
        All rollouts, ordered by problem and sample, as they now stand in the file.
    """
    wanted = [(problem.id, sample) for problem in problems for sample in range(samples)]
    by_id = {problem.id: problem for problem in problems}
    with JsonlAppender(path) as out:
        there = {(rollout.problem_id, rollout.sample): rollout for rollout in read_rollouts(path)}
        missing = [key for key in wanted if key not in there]
        progress = Progress(source, done=len(wanted) - len(missing), total=len(wanted))
        requests = [Request(key, by_id[key[0]].prompt, request_seed(seed, *key)) for key in missing]
        flushed = time.monotonic()
        for completion in sampler.sample(requests, sampling):
            rollout = _rollout(completion, by_id[completion.key[0]], reader, seed=seed, source=source)
            there[completion.key] = rollout
            out.append(rollout.to_json())
            progress.add(rollout.tokens)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                out.flush()
                flushed = time.monotonic()
    return write_ordered(path, (there[key] for key in wanted))


def write_ordered(path: Path, rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Replace the file by these rollouts, atomically, and return them."""
    rollouts = list(rollouts)
    write_jsonl(path, (rollout.to_json() for rollout in rollouts))
    return rollouts


def _rollout(completion: Completion, problem: Problem, reader: TraceReader, *, seed: int, source: str) -> Rollout:
    trace = reader.read(completion.ids)
    verdict = judge(trace.answer_text, problem)
    return Rollout(
        problem_id=problem.id,
        sample=completion.key[1],
        task=problem.task,
        text=trace.text,
        answer=verdict.answer,
        correct=verdict.correct,
        finished=completion.finished,
        tokens=trace.tokens,
        think_tokens=trace.think_tokens,
        answer_tokens=trace.answer_tokens,
        source=source,
        seed=request_seed(seed, *completion.key),
    )
