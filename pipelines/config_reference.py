"""The config reference: every key, its default and its description, read from the schema."""

from __future__ import annotations

from typing import Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from dray.pipelines.config import JobConfig


def describe(model: type[BaseModel] = JobConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, description) of every field, in order; the fields of sections have keys like engine.batch."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows += describe(annotation, f"{prefix}{name}.")
            continue
        default = (
            "required"
            if field.is_required()
            else yaml.safe_dump(field.get_default(call_default_factory=True), default_flow_style=True)
            .split("\n")[0]
            .removesuffix("...")
        )
        rows.append((prefix + name, default, (field.description or "") + _choices(annotation)))
    return rows


def _choices(annotation: object) -> str:
    options = get_args(annotation) if get_origin(annotation) is Literal else ()
    if get_origin(annotation) is Union:
        options = ()
    return f" [{' | '.join(map(str, options))}]" if options else ""
