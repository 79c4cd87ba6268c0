"""How a user calls each kind of pipeline: arguments of the item, and other call arguments, in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Pipeline

Arguments = dict[str, object]


def first_and_named(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """`pipe(item, **others)`: the first argument by position, whatever the pipeline calls it."""
    main, *others = arguments
    return pipe(arguments[main], **options, **{name: arguments[name] for name in others})


def named(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """`pipe(text=..., images=...)`: arguments that the row lacks are left out."""
    return pipe(**{name: value for name, value in arguments.items() if value is not None}, **options)


def pair(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """`pipe(text)` or `pipe({"text": ..., "text_pair": ...})`."""
    return pipe(arguments if len(arguments) > 1 else arguments["text"], **options)


def request(pipe: Pipeline, arguments: Arguments, options: Arguments) -> object:
    """`pipe({"state": ..., "questions": ...})`; the questions may stand in the config for all rows."""
    return pipe({**options, **arguments})
