"""Conservation: what the engine gave out is what the ledger holds, after returns, failures and cancellations."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.inference.engine import Capability, check_capabilities
from laconic.inference.engines.scripted import ScriptedEngine
from laconic.inference.ledger import FATES, ROLES, Account, Ledger, saving
from laconic.rewards.errors import LaunchError, RecipeError

STEP = st.tuples(
    st.sampled_from(["generate", "force", "fork", "fork back", "close", "cancel"]),
    st.integers(0, 3),
    st.integers(1, 6),
    st.sampled_from(ROLES),
    st.sampled_from(FATES),
)


def words(context):
    return [f"w{number} " for number in range(context.seed % 5 + 2)]


def failing(context):
    return ["a ", "b ", ValueError("broke")]


async def act(engine, ledger, steps):
    branches = [engine.open("a prompt", ledger=ledger, seed=seed) for seed in range(2)]
    forced = 0
    for action, which, count, role, fate in steps:
        branch = branches[which % len(branches)]
        if branch.account.closed:
            continue
        if action == "generate":
            await branch.generate(max_tokens=count, role=role)
        elif action == "force":
            await branch.extend("x " * count)
            forced += count
        elif action == "fork":
            branches.append(await branch.fork())
        elif action == "fork back":
            with suppress(RecipeError, LaunchError):  # fewer tokens, or forced text came after them
                branches.append(await branch.fork(back=count))
        elif action == "close":
            await branch.close(fate)
        else:
            task = asyncio.create_task(branch.generate(max_tokens=50, role=role))
            for _ in range(40 * count):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    for branch in branches:
        await branch.close("discarded")
    return forced


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEP, max_size=12))
def test_nothing_is_lost_or_counted_twice(steps):
    engine, ledger = ScriptedEngine(words), Ledger()
    forced = asyncio.run(act(engine, ledger, steps))
    table = ledger.by_role_and_fate()
    assert ledger.generated == engine.emitted == sum(map(sum, (row.values() for row in table.values())))
    assert ledger.forced == forced
    assert ledger.critical_path <= ledger.generated
    assert engine.open_branches == set()


def test_a_failure_keeps_what_was_said_before_it():
    async def run():
        engine, ledger = ScriptedEngine(failing), Ledger()
        async with engine.open("q", ledger=ledger) as branch:
            with pytest.raises(ValueError, match="broke"):
                await branch.generate(max_tokens=9)
        return engine, ledger

    engine, ledger = asyncio.run(run())
    assert ledger.generated == engine.emitted == ledger.tokens("think", "discarded") == 2


def test_shared_tokens_have_the_best_fate_of_any_branch():
    ledger = Ledger()
    parent = Account(ledger, prompt=3)
    parent.generate("think", 10)
    probe, winner = parent.fork(cached=10), parent.fork(cached=10)
    probe.generate("probe", 4)
    winner.generate("answer", 2)
    probe.close("discarded")
    winner.close("kept")
    parent.close("discarded")
    winner.close("discarded")  # only the first word counts
    assert ledger.by_role_and_fate()["think"] == {"kept": 10, "voted": 0, "discarded": 0}
    assert (ledger.tokens("probe", "discarded"), ledger.tokens("answer", "kept")) == (4, 2)
    assert (ledger.prompt, ledger.cached) == (3, 20)


def test_the_critical_path_is_the_longest_chain_not_the_sum():
    ledger = Ledger()
    first, second = Account(ledger, prompt=0), Account(ledger, prompt=0)
    first.generate("think", 5)
    second.generate("think", 8)
    assert ledger.critical_path == 8
    later = Account(ledger, prompt=0)  # opened after both were delivered
    later.generate("answer", 3)
    assert (ledger.critical_path, ledger.generated) == (11, 16)


def test_the_headline_saving_counts_probes_and_discarded_tokens():
    policy, baseline = Ledger(), Ledger()
    account = Account(policy, prompt=0)
    account.generate("think", 192)
    account.generate("probe", 60)
    account.generate("answer", 12)
    Account(baseline, prompt=0).generate("think", 412)
    assert saving(policy, baseline) == pytest.approx(1 - 264 / 412)


def test_capabilities_are_checked_in_one_message():
    engine = ScriptedEngine(words, capabilities=[Capability.STOP])
    with pytest.raises(LaunchError, match="fork a branch; hidden states") as caught:
        check_capabilities(engine, [Capability.STOP, Capability.FORK, Capability.HIDDEN_STATES], who="policy x")
    assert "policy x" in str(caught.value)
