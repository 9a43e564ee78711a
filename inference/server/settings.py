"""What a server allows and assumes."""

from __future__ import annotations

from dataclasses import dataclass

from laconic.rewards.errors import RecipeError

KEY_MIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and defaults of a server.

    Raises:
        RecipeError: a limit below 1, a temperature below 0, a key that is too short.
    """

    max_tokens: int | None = None
    """Of one completion, thinking and answer: the most a request may ask for, and what one that names no number gets,
    if its prompt leaves as much. None: three quarters of the model's positions, or 4096 if they are not known."""
    temperature: float = 1.0
    """Of requests that name none."""
    queue: int = 256
    """Requests that wait; the next one is answered with 429."""
    at_once: int = 128
    """Requests that run at once; more wait."""
    max_body: int = 1 << 20
    """Bytes of a request."""
    max_n: int = 16
    """Completions of one request: `n` times its prompts."""
    max_branches: int = 64
    """Open branches of one completion, forks included."""
    max_request_tokens: int | None = None
    """Generated tokens of one completion, whatever for: samples, probes, what is discarded. None: as many as
    `max_branches` completions of the largest size. Lower than `max_tokens`, it is the most of that too."""
    body_seconds: float = 30.0
    """For a request's body to arrive."""
    close_seconds: float = 10.0
    """For running requests to end by themselves when the server closes; then they are cancelled."""
    beat_seconds: float = 15.0
    """Silence of a stream before a comment is sent, so that nothing on the way takes it for dead."""
    key: str | None = None
    """What clients must show as ``Authorization: Bearer``; None lets everyone in."""
    allowed: tuple[str, ...] | None = None
    """Policies that a request may name; None: all that the engine can run."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "at_once", "max_body", "max_n", "max_branches", "max_request_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"serve: {name}={value}", cure="give at least 1")
        if self.queue < 0 or self.temperature < 0:
            raise RecipeError(f"serve: queue={self.queue}, temperature={self.temperature}", cure="give no less than 0")
        if self.key is not None and len(self.key) < KEY_MIN:
            raise RecipeError(f"serve: a key of fewer than {KEY_MIN} characters", cure="take a longer one")
