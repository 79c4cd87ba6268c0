"""A pipeline that answers many callers, each as soon as it can."""

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

MOST_CHOICES = 16  # answers to one request, or beams that are followed


class Service:
    """Holds the model of a config."""

    def __init__(
        self, config: JobConfig, threads: int = 0, on_batch: Callable[[BatchStats], None] = lambda stats: None
    ) -> None:
        """Loads the model, onto a GPU where this process may use one.

        Args:
            config: of a batch job; its input and output play no part.
            threads: of torch on CPUs; 0: as many as it takes.
            on_batch: called after every batch.

        Raises:
            ModelError: as of a batch job.
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
        """Requests that have not been answered."""
        return self._batcher.under_way

    async def outcome(self, item: Item) -> Outcome:
        """The prediction of an item, and what it took. To cancel it gives its place to others.

        Raises:
            RowError: the item is at fault.
            RequestError: it asks for more than is allowed.
            BusyError: too many are under way, or the service is closing.
        """
        self._refuse_much(item.options)
        item = replace(item, key=item.key or secrets.randbits(62))  # of its random numbers
        return await asyncio.wrap_future(self._batcher.submit(item))

    def _refuse_much(self, options: Mapping[str, object]) -> None:
        """Raises RequestError where the model would work on one request for very long."""
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
        """From now on work that hangs, or ruins the accelerator, ends this process: whoever runs it starts another."""
        self._watchdog.start(lambda work, error: None)

    def check(self) -> None:
        """Raises RuntimeError where the service can answer no more."""
        self._batcher.check()

    def close(self, timeout_s: float) -> bool:
        """Takes no more requests, and waits for those it has. Returns whether all were answered in time."""
        return self._batcher.close(timeout_s)
