"""The service's metrics for Prometheus. Ray exports them on every node, at /metrics of its metrics port."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from dray.pipelines.online.batcher import BatchStats

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0]
SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]


class Metrics:
    """The metrics of one replica. All have the tag `model`; Ray adds a tag for the replica."""

    def __init__(self, model: str) -> None:
        by_path, model_only = ("model", "path"), ("model",)
        self._requests = Counter("dray_requests", "requests answered", (*by_path, "status"))
        self._request_s = Histogram("dray_request_seconds", "from a request's arrival to its answer's end", SECONDS, by_path)
        self._queue_s = Histogram("dray_queue_wait_seconds", "how long a model input waited for its batch", SECONDS, model_only)
        self._forward_s = Histogram("dray_forward_seconds", "of the model, for a batch", SECONDS, model_only)
        self._fill = Histogram("dray_batch_fill", "model inputs of a batch, as a share of its capacity", SHARES, model_only)
        self._parts = Counter("dray_model_inputs", "model inputs that the model has run", model_only)
        self._elements = Counter("dray_elements", "tokens, samples or pixels that the model was given", model_only)
        self._padded = Counter("dray_padded_elements", "the same with padding", model_only)
        self._tags = {"model": model}
        for metric in (self._queue_s, self._forward_s, self._fill, self._parts, self._elements, self._padded):
            metric.set_default_tags(self._tags)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Adds a request. `path` is the path of the route, not the client's."""
        self._requests.inc(1, {**self._tags, "path": path, "status": str(status)})
        self._request_s.observe(seconds, {**self._tags, "path": path})

    def ran(self, batch: BatchStats) -> None:
        """Adds a batch."""
        for waited in batch.waited_s:
            self._queue_s.observe(waited)
        self._forward_s.observe(batch.forward_s)
        self._fill.observe(batch.parts / batch.capacity)
        self._parts.inc(batch.parts)
        self._elements.inc(batch.elements)
        self._padded.inc(batch.padded_elements)
