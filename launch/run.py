"""`laconic run`: every stage of a recipe that is not complete yet, one process after the other."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from rich.console import Console

from laconic.launch.environment import stage_environment
from laconic.launch.lines import PLAIN, short, stage_argv
from laconic.launch.lock import run_lock
from laconic.launch.options import Options
from laconic.launch.plan import StageView, check_rollouts, view_stages
from laconic.launch.process import LOG, explain, run_process, start_log
from laconic.launch.profiles import Profile, check_machine
from laconic.launch.report import build_report, headline_table, is_fresh, read_results
from laconic.launch.selection import check_inputs, select
from laconic.launch.space import check_space, needed_bytes
from laconic.launch.text import seconds, table
from laconic.launch.threads import choose_threads
from laconic.recipes.folder import STAGE_FILE, is_complete
from laconic.recipes.resolve import Plan


def run(
    options: Options,
    out: Console,
    *,
    only: str | None = None,
    first: str | None = None,
    last: str | None = None,
    threads: int | None = None,
) -> int:
    """Run what is chosen and not complete, then bring the report up to date; returns the exit code.

    Args:
        options: The recipe, its overrides and the profile.
        out: Where progress is written.
        only: Run this stage alone.
        first: Begin with this stage.
        last: End with this stage.
        threads: For each process; None chooses from what the machine is doing.

    Raises:
        LaconicError: what was asked for cannot work here; nothing was started.
    """
    plan, profile = options.plan(), options.load_profile()
    chosen = select(plan, only=only, first=first, last=last)
    names = {stage.name for stage in chosen}
    views = [view for view in view_stages(plan, profile) if view.stage.name in names]
    check_inputs(plan, chosen)
    if any(view.training is not None and view.state != "complete" for view in views):
        check_machine(profile)
    for view in views:
        check_rollouts(view, profile)
    with run_lock(plan.run_dir) as lock:
        runner = _Runner(plan, profile, out, lock, threads)
        status = runner.run(views)
    if runner.spent:
        _print_times(runner.spent, out)
    if status == 0:
        _report(plan, out)
    return status


@dataclass
class _Runner:
    """Runs stages one after the other, and keeps what they share."""

    plan: Plan
    profile: Profile
    out: Console
    lock: int
    requested_threads: int | None
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that was run to its end, start of its processes included."""
    _threads: dict[int, int] = field(default_factory=dict)

    def run(self, views: list[StageView]) -> int:
        for view in views:
            if view.folder.complete:
                self._say(f"{self._title(view)}: complete, reused", style="dim")
            elif status := self._run_one(view):
                return status
        return 0

    def _run_one(self, view: StageView) -> int:
        folder = view.folder
        check_space(self.plan.run_dir, needed_bytes(view.stage, self.profile), stage=view.stage.name)
        resumes = view.state == "begun"
        folder.prepare()
        env = stage_environment(self.profile, self._threads_for(view.stage.kind))
        self._say(f"{self._title(view)}{': resumes' if resumes else ''}", style="bold")
        self._say(f"  {view.line}", style="dim")
        log_start, started = start_log(folder.work, view.line), time.monotonic()
        argv = stage_argv(view.stage.kind, folder.path / STAGE_FILE, self.profile)
        status = run_process(argv, log=folder.work / LOG, env=env, lock=self.lock)
        if status == 0 and folder.complete:
            self.spent[view.stage.name] = time.monotonic() - started
            self._say(f"  done in {seconds(self.spent[view.stage.name])}", style="green")
            return 0
        failure = explain(folder.work, status, log_start)
        print(failure.message, file=sys.stderr, flush=True)
        return failure.exit_code

    def _threads_for(self, kind: str) -> int:
        """Threads per process, chosen (and said) once for each number of processes on a node."""
        ranks = 1 if kind in PLAIN else max(1, self.profile.processes // self.profile.machines)
        if ranks not in self._threads:
            choice = choose_threads(ranks, requested=self.requested_threads)
            self._threads[ranks] = choice.count
            self._say(f"threads: {choice.count} for each of {ranks} process(es), {choice.reason}", style="dim")
        return self._threads[ranks]

    def _title(self, view: StageView) -> str:
        last = self.plan.stages[-1].index
        return f"[{view.stage.index}/{last}] {view.stage.name}  {short(view.folder.path)}"

    def _say(self, text: str, *, style: str) -> None:
        self.out.print(text, style=style, markup=False)


def _report(plan: Plan, out: Console) -> None:
    """Bring the report of a complete run up to date and sum it up."""
    evals = [stage for stage in plan.stages if stage.kind == "eval"]
    if not evals or not all(is_complete(plan.run_dir / stage.folder) for stage in plan.stages):
        return
    if not is_fresh(plan.run_dir, {stage.hash for stage in evals}):
        out.print("writing the report", style="dim")
        build_report(plan.run_dir, [stage.folder for stage in evals])
    out.print()
    out.print(headline_table(read_results(plan.run_dir)))
    out.print(f"\nreport: {short(plan.run_dir / 'report' / 'report.html')}", markup=False)


def _print_times(spent: dict[str, float], out: Console) -> None:
    rows = [[name, seconds(duration)] for name, duration in spent.items()]
    out.print()
    out.print(table(["stage", "time"], [*rows, ["total", seconds(sum(spent.values()))]], right=[1]))
