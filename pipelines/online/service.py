"""Answers the requests of many callers with one pipeline."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from dray.pipelines.config import JobConfig
from dray.pipelines.engine.block import Outcome
from dray.pipelines.engine.tuning_cache import Tuner
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import RequestError
from dray.pipelines.models.loading import in_passing_thread, load_phases
from dray.pipelines.models.resolved import resolve_model
from dray.pipelines.online.batcher import Batcher, BatchStats
from dray.pipelines.phases.item import Item

MOST_CHOICES = 16  # the most answers to one request, and the most beams


class Service:
    """The loaded model of a config, which answers requests."""

    def __init__(
        self, config: JobConfig, threads: int = 0, on_batch: Callable[[BatchStats], None] = lambda stats: None
    ) -> None:
        """Loads the model, onto a GPU if this process may use one.

        Args:
            config: as for a batch job; its input and output are not used.
            threads: the number of torch threads on CPUs; 0: torch's default.
            on_batch: called after every batch.

        Raises:
            ModelError: as in a batch job.
        """
        import torch

        if threads:
            torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = resolve_model(config)
        self.phases = in_passing_thread(lambda: load_phases(model, weights=True, device=device))
        self.config, self.task = config, self.phases.task
        most = config.serve
        self.phases.media_options = replace(self.phases.media_options, max_seconds=most.max_seconds, max_pixels=most.max_pixels)
        limits = Tuner(self.phases, config.engine.batch, model.identity, seconds=0).limits
        self._watchdog = Watchdog(config.errors.timeout_s)
        self._batcher = Batcher(self.phases, limits, self._watchdog, config.serve.max_requests, on_batch=on_batch)

    @property
    def under_way(self) -> int:
        """The number of unanswered requests."""
        return self._batcher.under_way

    async def outcome(self, item: Item) -> Outcome:
        """The outcome of an item: its prediction and figures. Cancel the call to stop work on the item.

        Raises:
            RowError: the item cannot be processed.
            RequestError: its options are above the service's limits.
            BusyError: there are too many unanswered requests, or the service is shutting down.
        """
        self._refuse_much(item.options)
        item = replace(item, key=item.key or secrets.randbits(62))  # it seeds the item's random numbers
        return await asyncio.wrap_future(self._batcher.submit(item))

    def _refuse_much(self, options: Mapping[str, object]) -> None:
        """Raises RequestError for options with which the model would work on one request for very long."""
        tokens = self.config.serve.max_new_tokens
        limits = dict.fromkeys(("max_new_tokens", "max_length", "min_new_tokens", "min_length"), tokens)
        limits |= {"num_return_sequences": MOST_CHOICES, "num_beams": MOST_CHOICES}
        nested = options.get("generate_kwargs")
        for name, value in {**options, **(nested if isinstance(nested, Mapping) else {})}.items():
            if name not in limits or value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise RequestError(f"{name} must be a whole number")
            if value > limits[name]:
                raise RequestError(f"{name}: at most {limits[name]} here")

    def end_on_hang(self) -> None:
        """Starts the watchdog: work that hangs or breaks the accelerator ends this process. Its owner must start another."""
        self._watchdog.start(lambda work, error: None)

    def check(self) -> None:
        """Raises RuntimeError if the service can answer no more requests."""
        self._batcher.check()

    def close(self, timeout_s: float) -> bool:
        """Refuses further requests, and waits for the others. Returns whether all were answered within `timeout_s`."""
        return self._batcher.close(timeout_s)
