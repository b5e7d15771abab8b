"""What Prometheus may know of the service."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECTIONS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service; each has a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "diapir_requests", "Answers", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "diapir_request_seconds",
            "From the first byte of a request to the last of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_sections = Histogram(
            "diapir_batch_sections",
            "Sections predicted in one call of a model",
            buckets=_SECTIONS,
            registry=registry,
        )
        self.model_seconds = Counter(
            "diapir_model_seconds", "Time inside the models", registry=registry
        )
        self.queue_sections = Gauge(
            "diapir_queue_sections", "Sections that are held", registry=registry
        )
        self.refused = Counter(
            "diapir_refused", "Requests for which there was no room", registry=registry
        )
        self.jobs = Gauge("diapir_jobs", "Jobs by state", ("state",), registry=registry)

    def text(self) -> bytes:
        """Return all of them in the text format of Prometheus."""
        return generate_latest(self._registry)
