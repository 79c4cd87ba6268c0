"""The first mistake in a config as a sentence for its author."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from dray.pipelines.errors import nearest


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """The first mistake as a sentence. Unknown keys come first, since a misspelt key is also a missing one."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name}{nearest(location[-1], _known_keys(root, location[:-1]))}"
    if detail["type"] == "missing":
        return f"{name} is missing"
    got = detail["input"]
    return f"{_public_name(root, location)}: {detail['msg'].removeprefix('Value error, ')}, got {got!r}"


def _public_name(root: type[BaseModel], location: list[str]) -> str:
    """The key's path, without the names that pydantic adds for the members of a union."""
    model = root
    name: list[str] = []
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            break
        name.append(part)
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return ".".join(name) or ".".join(location)


def _known_keys(root: type[BaseModel], parents: Iterable[str]) -> list[str]:
    model = root
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
