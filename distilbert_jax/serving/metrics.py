"""Metrics of a server for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE  # noqa: F401 (what `text` is sent as)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_POWERS = tuple(2.0**n for n in range(15))


class Metrics:
    """What a server counts. One of each name a server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.requests = Counter(
            "distilbert_jax_requests", "Requests, by route and status", ["route", "status"], registry=kept
        )
        self.seconds = Histogram(
            "distilbert_jax_request_duration_seconds",
            "From a request's head to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=kept,
        )
        self.texts = Counter(
            "distilbert_jax_texts", "Texts that were accepted, by model and task", ["model", "task"], registry=kept
        )
        self.waiting = Gauge("distilbert_jax_queue_size", "Texts that wait for a batch", registry=kept)
        self.batch_texts = Histogram("distilbert_jax_batch_texts", "Texts of a batch", buckets=_POWERS, registry=kept)
        self.batch_tokens = Histogram(
            "distilbert_jax_batch_tokens", "Tokens of a batch", buckets=_POWERS, registry=kept
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
