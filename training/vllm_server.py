"""Where the launch has put the vLLM server that samples a stage's rollouts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from laconic.rewards.errors import LaunchError

VARIABLE = "LACONIC_VLLM_SERVER"
"""``host:port``, set by the script of `laconic plan --slurm`. A machine's name is no part of a recipe."""


def server_address(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What TRL's configuration has to be told; nothing for a stage that uses no server.

    Args:
        trainer: The stage's trainer settings.
        environ: Where the address is.

    Raises:
        LaunchError: the variable is not ``host:port``.
    """
    said = environ.get(VARIABLE)
    if not said or not trainer.get("use_vllm") or trainer.get("vllm_mode") != "server":
        return {}
    host, colon, port = said.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise LaunchError(f"{VARIABLE} is {said!r}", cure="write it as host:port")
    return {"vllm_server_host": host, "vllm_server_port": int(port)}
