"""Calls a pipeline as a user does, but stops it before its phases run, and returns the phases' arguments instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dray.pipelines.internals.pipelines import PhaseArguments, sort_arguments
from dray.pipelines.media import values

if TYPE_CHECKING:
    from transformers import Pipeline

Options = Mapping[str, Any]


class PhaseInputs(NamedTuple):
    """What a pipeline's own `__call__` hands to its phases: the item, and the arguments of each phase."""

    inputs: object
    preprocess_params: Options
    forward_params: Options
    postprocess_params: Options


def intercept(pipe: Pipeline) -> None:
    """Changes `pipe` so that a call runs nothing and returns a PhaseInputs, or lists of them."""
    pipe.run_single, pipe.get_iterator = _one, _each
    pipe.call_count = float("-inf")  # it would warn that it is called with one item at a time


def _one(inputs: object, preprocess_params: Options, forward_params: Options, postprocess_params: Options) -> PhaseInputs:
    """Replaces `Pipeline.run_single`."""
    return PhaseInputs(inputs, preprocess_params, forward_params, postprocess_params)


def _each(
    inputs: Sequence[object],
    workers: int,
    batch: int,
    preprocess_params: Options,
    forward_params: Options,
    postprocess_params: Options,
) -> Iterator[PhaseInputs]:
    """Replaces `Pipeline.get_iterator`."""
    return iter([PhaseInputs(one, preprocess_params, forward_params, postprocess_params) for one in inputs])


def route(call: Callable[..., object], pipe: Pipeline, arguments: Mapping[str, object], options: Options) -> PhaseInputs:
    """The phases' arguments in `call(pipe, arguments, options)`; `pipe` must be intercepted.

    Raises:
        ValueError: the arguments are several items instead of one.
    """
    routed = call(pipe, dict(arguments), options)
    while isinstance(routed, list):
        if len(routed) != 1:
            raise ValueError(f"the cell holds {len(routed)} inputs for {pipe.task}; a row takes one")
        routed = routed[0]
    assert isinstance(routed, PhaseInputs)
    return routed


class Arguments:
    """The call arguments of a config and of its rows, sorted by phase as `Pipeline.__call__` sorts them."""

    def __init__(self, pipe: Pipeline, parameters: Options, items: Collection[str]) -> None:
        """`parameters` are the config's; `items` names the arguments of an item. Raises the pipeline's own error."""
        self._pipe, self._parameters, self._items = pipe, parameters, items
        self._defaults = self._sorted({})

    def given(self, row: Options) -> Options:
        """All arguments of a call; those of the row override the config's."""
        own = {name: values.without_nulls(value) for name, value in row.items()}
        given = values.whole_numbers({**copy.deepcopy(self._parameters), **own})  # pipelines write into what they are given
        if "forward_params" in given:  # of text-to-audio, such as a speaker's embedding
            given["forward_params"] = {name: values.tensor(value) for name, value in given["forward_params"].items()}
        return given

    def forward_params(self, row: Options) -> Options:
        """The arguments of the pipeline's forward."""
        return (self._sorted(row) if row else self._defaults).forward_params

    def postprocess_params(self, row: Options) -> Options:
        """The arguments of the pipeline's postprocess."""
        return (self._sorted(row) if row else self._defaults).postprocess_params

    def _sorted(self, row: Options) -> PhaseArguments:
        given = self.given(row)
        return sort_arguments(self._pipe, {name: given[name] for name in given if name not in self._items})


def options_key(options: Mapping[str, Any]) -> str:
    """A string that is equal for equal options; of objects such as a tokenizer only the class counts."""
    return repr({name: _value(options[name]) for name in sorted(options)}) if options else ""


def _value(value: object) -> object:
    if isinstance(value, Mapping):
        return options_key(value)
    if isinstance(value, (list, tuple)):
        return [_value(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else type(value).__name__
