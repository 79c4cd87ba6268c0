"""How each kind of pipeline is called: with the arguments of the item, and the other call arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Pipeline

Arguments = dict[str, object]


def first_and_named(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """Calls `pipe(item, **others)`: the first argument by position, since its name differs between pipelines."""
    main, *others = arguments
    return pipe(arguments[main], **options, **{name: arguments[name] for name in others})


def named(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """Calls `pipe(text=..., images=...)`, without the arguments that the row lacks."""
    return pipe(**{name: value for name, value in arguments.items() if value is not None}, **options)


def pair(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """Calls `pipe(text)` or `pipe({"text": ..., "text_pair": ...})`."""
    return pipe(arguments if len(arguments) > 1 else arguments["text"], **options)


def request(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """Calls `pipe({"state": ..., "questions": ...})`; the config may give the questions for all rows."""
    return pipe({**options, **arguments})
