"""`laconic ask` as a process with a model, and what it prints piece by piece."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from laconic.inference.engine import Token
from laconic.inference.engines.scripted import EOS, ScriptedEngine
from laconic.inference.opening import Opened
from laconic.launch import ask_command
from laconic.launch.ask_command import AskOptions, run_ask
from laconic.launch.ask_text import Screen, Splitter
from laconic.launch.cli import main
from laconic.rewards.errors import LaunchError, RecipeError

TAGS = ("<think>", "</think>")


def command(*arguments):
    return [sys.executable, "-m", "laconic.launch.cli", "ask", *map(str, arguments)]


def account(printed):
    """The numbers of the table of tokens, by role."""
    rows = re.findall(r"^(think|answer|probe|generated) +(\S+) +(\S+) +(\S+) +([\d,]+)$", printed, re.MULTILINE)
    return {role: [0 if cell == "-" else int(cell.replace(",", "")) for cell in cells] for role, *cells in rows}


def test_the_account_of_a_process_adds_up(thinker):
    arguments = (thinker, "-", "--max-tokens", 40, "--policy", "self_consistency:samples=3")
    done = subprocess.run(command(*arguments), capture_output=True, text=True, input="3 + 4 =\n", check=True)
    # Standard output is a pipe here, and has the answer alone.
    table = account(done.stderr)
    roles = [table[role] for role in table if role != "generated"]
    assert [sum(column) for column in zip(*roles, strict=True)] == table["generated"]
    kept, voted, discarded, everything = table["generated"]
    assert kept + voted + discarded == everything
    assert 3 <= everything <= 120
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr)
    assert done.stdout
    assert account(done.stdout) == {}
    assert done.stderr.startswith("\ntokens")


def test_ctrl_c_ends_the_answer_and_accounts_for_what_there_is(thinker):
    arguments = (thinker, "3 + 4 =", "--max-tokens", 60000, "--policy", "think_budget:minimum=50000")
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    began = os.read(process.stdout.fileno(), 64)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    printed = errors.decode()
    assert process.returncode == 130, errors
    assert began + rest
    assert "Traceback" not in printed
    assert 1 <= account(printed)["generated"][3] < 50000
    assert "cancelled: interrupted" in printed


@pytest.mark.parametrize(
    "arguments", [["nowhere", "3 + 4 ="], ["nowhere", "  "], ["nowhere", "?", "--policy", "plane"]]
)
def test_a_mistake_is_one_message(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["laconic", "ask", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 2


# What is printed, with an engine that says what a script tells it.

THINKING = ["<think>", " a", " b", "</think>", " 7"]


def say(context):
    if context.role == "probe":
        return [Token(text, logprob=-0.1) for text in ("{", "5", "}")]
    return [*THINKING[sum(context.generated.values()) :], EOS]


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(ask_command, "open_model", lambda model, **_: Opened(ScriptedEngine(say), model))


def asked(**options):
    out = io.StringIO()
    status = run_ask(AskOptions(model="tiny", question="q", **options), Console(file=out, width=200, soft_wrap=True))
    assert status == 0
    return out.getvalue()


def test_the_thinking_is_printed_or_not(scripted):
    assert asked().startswith("<think> a b</think> 7\n\ntokens")
    assert asked(show_thinking=False).startswith("7\n\ntokens")


def test_probes_are_accounted_for_and_never_printed(scripted):
    printed = asked(policy="confidence_probe:every=2,at=[],probe_tokens=4,probe_stop=['}'],threshold=2")
    assert printed.startswith("<think> a b</think> 7\n")
    # The thinking has four tokens and a probe after two; the answer has two, its end included.
    assert account(printed) == {
        "think": [4, 0, 0, 4],
        "answer": [2, 0, 0, 2],
        "probe": [0, 0, 3, 3],
        "generated": [6, 0, 3, 9],
    }


def test_a_stop_is_printed_as_it_is_returned(scripted):
    printed = asked(
        policy="confidence_probe:every=2,at=[],probe_tokens=4,probe_stop=['}'],answer_by=probe,threshold=0.5"
    )
    assert printed.startswith("<think> a</think>\n\n**Final Answer**\n\n\\boxed{5}\n")
    assert "answer         5\n" in printed
    assert "confidence     0.905\n" in printed
    assert "finish         policy_stop: the policy ended it\n" in printed


def test_json_is_one_object_that_holds_everything(scripted, capsys):
    assert asked(as_json=True, policy="self_consistency:samples=2", seed=5) == ""
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["answer"], said["finish"]) == ("<think> a b</think> 7", "7", "stop")
    assert said["ledger"]["generated"] == 12 == sum(sum(f.values()) for f in said["ledger"]["by_role"].values())
    assert (said["question"], said["policy"]["name"], said["confidence"]) == ("q", "self_consistency", 1.0)


def test_an_engine_that_fails_leaves_one_message(monkeypatch):
    def fails(context):
        return ["<think>", " a", LaunchError("the server is gone", cure="start it")]

    monkeypatch.setattr(ask_command, "open_model", lambda model, **_: Opened(ScriptedEngine(fails), model))
    out = io.StringIO()
    with pytest.raises(LaunchError, match="gone"):
        run_ask(AskOptions(model="tiny", question="q"), Console(file=out))
    assert out.getvalue().endswith("<think> a\n")  # the message begins its own line


@pytest.mark.parametrize(("name", "lacks"), [("gold", "no gold answer"), ("steps", "no known steps")])
def test_what_judges_a_problem_cannot_score_a_question_that_is_asked(scripted, name, lacks):
    with pytest.raises(RecipeError, match=lacks):
        asked(policy="best_of_n:samples=2", scorer=name)


@pytest.mark.parametrize(
    ("policy", "says", "cure"),
    [
        ("best_of_n:samples=2", "best_of_n:samples=2 needs a scorer", "--scorer module:function"),
        ("semantic_switch", "semantic_switch needs a scorer", "--scorer module:function"),
        ("search_episode", "search_episode needs a retriever", "--retriever"),
        ("confidence_cascade", "needs engines of the names 'small' and 'large'", "--engine NAME=MODEL"),
        ("draft_target", "needs an engine of the name 'draft'", "--engine NAME=MODEL"),
    ],
)
def test_what_a_policy_needs_is_said_before_a_model_is_opened(monkeypatch, policy, says, cure):
    monkeypatch.setattr(ask_command, "open_model", lambda *_, **__: pytest.fail("a model was opened"))
    with pytest.raises((RecipeError, LaunchError), match=re.escape(says)) as refused:
        asked(policy=policy)
    assert cure in refused.value.cure


def test_further_engines_are_opened_by_name(monkeypatch):
    def say_model(model):
        return lambda context: ["<think>", "</think>", model, EOS][sum(context.generated.values()) :]

    opened = []

    def open_scripted(model, **_):
        opened.append(Opened(ScriptedEngine(say_model(model)), model))
        return opened[-1]

    monkeypatch.setattr(ask_command, "open_model", open_scripted)
    printed = asked(
        policy="ab_mcts:trials=2,batch=1,models=[other]", engines=("other=b",), scorer=f"{__name__}:longest"
    )
    assert [item.name for item in opened] == ["tiny", "b"]
    assert printed.startswith("<think></think>")
    with pytest.raises(RecipeError, match="--engine b"):
        asked(engines=("b",))


def longest(problem):
    """A scorer that likes long texts."""

    async def score(prompt, texts):
        return [1 - 1 / (1 + len(text)) for text in texts]

    return score


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
@pytest.mark.parametrize(
    ("text", "thinks", "answer"),
    [
        ("<think> 3 < 4 </think> so 3 < 4 </think>", False, " so 3 < 4 </think>"),
        ("3 < 4 <thinking", False, "3 < 4 <thinking"),
        ("a</think>b", True, "b"),
        ("a </thin", True, ""),
    ],
)
def test_pieces_of_any_size_are_split_alike(text, size, thinks, answer):
    splitter = Splitter(*TAGS, thinks=thinks)
    pieces = [piece for at in range(0, len(text), size) for piece in splitter.feed(text[at : at + size])]
    pieces.append(splitter.rest())
    assert "".join(piece for piece, _ in pieces) == text
    assert "".join(piece for piece, thinking in pieces if not thinking) == answer


def test_control_codes_of_a_model_do_not_reach_the_terminal():
    out = io.StringIO()
    screen = Screen(
        Console(file=out, force_terminal=True, color_system="standard"), Splitter(*TAGS), show_thinking=True
    )
    screen.hear("<think>x</think>\x1b[2J\x07ok\n")
    screen.finish(None)
    printed = out.getvalue()
    assert re.findall(r"\x1b\[[0-9;]*[^m0-9;]", printed) == []
    assert "\x1b[2m" in printed  # thinking is dimmed
    assert "\x07" not in printed


def seeker(context):
    if "<information>" in context.text:
        return ["<answer>", " Lima ", "</answer>"]
    return ["<think>", " hm", "</think>", "<search>", " capital", " of", " Peru ", "</search>"]


def test_a_question_is_searched_for_and_the_documents_are_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ask_command, "open_model", lambda model, **_: Opened(ScriptedEngine(seeker), model))
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": "peru", "text": "Lima is the capital of Peru."}, {"id": "x", "text": "Nothing of that."}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"policy": "search_episode:k=1", "retriever": str(corpus)}
    printed = asked(**given)
    assert "Lima is the capital of Peru." in printed
    assert "\nsearch         capital of Peru: peru\n" in printed
    assert "\ndocuments      peru\n" in printed
    assert asked(**given, as_json=True) == ""
    said = json.loads(capsys.readouterr().out)
    assert (said["answer"], said["notes"]["citations"]) == ("Lima", ["peru"])
    with pytest.raises(LaunchError, match="policy search_episode needs a retriever"):
        asked(policy="search_episode")
