"""`laconic serve`, as a process: it answers the official client, ends in good order, and says what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import openai
import pytest
from typer.testing import CliRunner

from laconic.launch.cli import app
from laconic.recipes.model_spec import ScratchModel
from laconic.rewards.errors import LaconicError
from laconic.training import scratch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    spec = ScratchModel(hidden_size=32, layers=2, heads=2, max_length=256)
    scratch.build(spec, scratch.symbolic_tokenizer([*map(str, range(10)), *"+="]), seed=0, folder=folder)
    return str(folder)


def start(*arguments, **environment):
    command = [sys.executable, "-m", "laconic.launch.cli", "serve", *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def refused(*arguments, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, ""), err
    assert "Traceback" not in err
    return err


def place_of(process):
    """The address it prints once it listens, and what it printed before."""
    before = ""
    for line in process.stderr:
        if found := re.match(r"serving (\S+) at (http://\S+/v1), policy (.*)", line):
            return found.groups(), before
        before += line
    raise AssertionError(before)


def test_it_serves_until_it_is_told_to_stop(model):
    """With a key, an own name and a policy; who is being answered when it stops is answered to the end."""
    options = ["--policy", "self_consistency:samples=3", "--name", "tiny", "--port", "0", "--api-key-env", "A_KEY"]
    process = start(model, *options, "--max-tokens", "200", A_KEY="secret of the test")
    try:
        (name, url, policy), before = place_of(process)
        assert (name, policy) == ("tiny", "self_consistency:samples=3")
        assert "warning" not in before
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=url, api_key="secret of the test", max_retries=0)
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 ="}], "seed": 1}
        (choice,) = client.chat.completions.create(**asked).choices
        assert choice.laconic["parameters"] == {"samples": 3}
        plain = {"stream": True, "extra_body": {"policy": "plain", "separate_reasoning": False}, "temperature": 0.5}
        stream = client.chat.completions.create(**asked, **plain)
        chunks = [next(iter(stream)) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert chunks[-1].choices[0].laconic["ledger"]["generated"] >= 1
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "shrt_mk"], "did you mean short_mk?"),
        (["--policy", "short_mk:k=0"], "short_mk"),
        (["--api-key-env", "NO_SUCH_KEY"], "$NO_SUCH_KEY holds no key"),
        (["--allow", "plain,nobody"], "unknown policy 'nobody'"),
        (["--queue", "-1"], "queue=-1"),
        (["--scorer", "steps"], "which a server has not"),
        (["--policy", "draft_target"], "needs an engine of the name 'draft'\n  -> name each: --engine NAME=MODEL"),
        (["--engine", "small=a"], "--engine small: no policy asks for an engine of this name"),
        (["--engine", "small"], "give each once, as NAME=MODEL"),
        (["--policy", "confidence_cascade", "--engine", "small=a", "--engine", "large=b"], "a: "),
        (["--host", "203.0.113.1"], "cannot listen at 203.0.113.1:8000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_shows_before_the_model_is_loaded(arguments, said):
    error = CliRunner().invoke(app, ["serve", "no/such/model", *arguments]).exception
    assert isinstance(error, LaconicError)
    assert said in str(error)


def test_mistakes_leave_with_2():
    assert "did you mean plain?" in refused("no/such/model", "--policy", "plan")


def other_model(folder):
    """Of another size, so that it says something else."""
    spec = ScratchModel(hidden_size=16, layers=1, heads=1, max_length=256)
    scratch.build(spec, scratch.symbolic_tokenizer([*map(str, range(10)), *"+="]), seed=1, folder=folder)
    return folder


def test_a_scorer_further_engines_and_a_warning_where_others_can_reach_it(model, tmp_path):
    (tmp_path / "shortest.py").write_text(
        "def make(problem):\n"
        "    async def score(prompt, texts):\n"
        "        assert prompt == problem.prompt == '3 + 4 ='\n"
        "        return [1 / (1 + len(text)) for text in texts]\n"
        "    return score\n"
    )
    options = ["--policy", "best_of_n:samples=4", "--scorer", "shortest:make", "--port", "0", "--host", "0.0.0.0"]
    options += ["--allow", "best_of_n,plain,cascade", "--engine", f"large={model}"]
    options += ["--engine", f"small={other_model(tmp_path / 'small')}"]
    process = start(model, *options, "--name", "tiny", PYTHONPATH=str(tmp_path))
    try:
        (_, url, _), before = place_of(process)
        assert "warning: everyone who reaches http://0.0.0.0:" in before
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4 ="}], "seed": 1}
        client = openai.OpenAI(base_url=url, api_key="-", max_retries=0)
        assert client.chat.completions.create(**asked).choices[0].laconic["policy"] == "best_of_n"
        assert [item.id for item in client.models.list()] == ["tiny"]

        def said(policy, seed):
            options = {"extra_body": {"policy": policy, "separate_reasoning": False}, "max_tokens": 40}
            (choice,) = client.chat.completions.create(**{**asked, "seed": seed}, **options).choices
            roles = choice.laconic["ledger"]["by_role"].values()
            return choice.message.content, *(sum(role[fate] for role in roles) for fate in ("kept", "discarded"))

        # The model itself is an engine too, under a name. Every text has a score from 0 to 1; what cannot be read goes
        # on to the other engine.
        answered = []
        for seed in range(6):
            alone = said("plain", seed)
            second = said("cascade:engines=[large,small],thresholds=[2]", seed)
            assert (alone[2], second[2]) == (0, alone[1])
            first = said("cascade:engines=[large,small],thresholds=[0]", seed)
            assert first in (alone, second)
            answered.append(first == alone)
        assert any(answered)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
