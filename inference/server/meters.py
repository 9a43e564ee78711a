"""What Prometheus reads: requests, tokens by role and fate, queue, latency."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from laconic.inference.ledger import Ledger

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """The figures of one server, in a registry of its own.

    Args:
        in_flight: Says how many requests run.
        waiting: Says how many wait.
    """

    def __init__(self, in_flight: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("laconic_requests", "Requests, by route and status.", ["route", "status"], **own)
        self.tokens = Counter("laconic_tokens", "Generated tokens, by role and fate.", ["role", "fate"], **own)
        self.forced = Counter("laconic_forced_tokens", "Tokens of text that policies put in.", **own)
        self.prompt = Counter("laconic_prompt_tokens", "Prompt tokens that branches began with.", **own)
        self.cancelled = Counter("laconic_cancelled", "Requests whose client went before the end.", **own)
        latency = ("laconic_request_seconds", "From a request's arrival to the end of its answer.", ["route"])
        self.seconds = Histogram(*latency, buckets=_SECONDS, **own)
        first = ("laconic_first_token_seconds", "From a request's arrival to the first text of its answer.", ["route"])
        self.first = Histogram(*first, buckets=_SECONDS, **own)
        Gauge("laconic_requests_in_flight", "Requests that run.", **own).set_function(in_flight)
        Gauge("laconic_queue_length", "Requests that wait.", **own).set_function(waiting)

    def count(self, ledger: Ledger) -> None:
        """Add the account of a run, however it ended."""
        for role, fates in ledger.by_role_and_fate().items():
            for fate, tokens in fates.items():
                self.tokens.labels(role, fate).inc(tokens)
        self.forced.inc(ledger.forced)
        self.prompt.inc(ledger.prompt)

    def page(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.registry)
