"""What a client is told when it gets no answer: a status and an error in OpenAI's shape, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laconic.rewards.errors import DataError, LaconicError, LaunchError, RecipeError

_KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "body_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "queue_full"),
    503: ("server_error", "shutting_down"),
}


class Refused(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: What is wrong and what to do, for the client's user.
        param: The field of the request it is about.
        code: A word for programs; by default the status's own.
        headers: To send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, dict(headers or {})
        kind, usual = _KINDS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
        self.kind, self.code = kind, code or usual

    def to_json(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def refusal_of(error: BaseException, *, remote: bool, begun: bool) -> Refused:
    """What a client is told about an error of a policy's run.

    A prompt that does not fit, or a parameter that the policy refuses only while it runs, is the request's mistake
    (400), and so is a policy that this server's engine cannot run. A server behind this one that fails is 502,
    everything else 500, without a word about the inside.

    Args:
        error: What was raised; of a group, its first.
        remote: The engine is a server itself.
        begun: Tokens were generated already.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Refused):
        return error
    if isinstance(error, RecipeError | DataError):
        return Refused(400, said(error))
    if isinstance(error, LaunchError):
        if remote:
            return Refused(502, f"the server behind this one: {said(error)}", code="engine_failed")
        return Refused(500 if begun else 400, said(error), code="engine_failed" if begun else "engine_cannot")
    if isinstance(error, LaconicError):
        return Refused(500, said(error), code="engine_failed")
    return Refused(500, "this server failed; its log says how", code="internal_error")


def said(error: LaconicError) -> str:
    """Message and cure on one line."""
    return error.message if error.cure is None else f"{error.message} ({error.cure})"
