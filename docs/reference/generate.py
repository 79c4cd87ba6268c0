"""Writes config.md beside this file: the reference of all config keys, from the schema itself."""

from __future__ import annotations

import re
from pathlib import Path

from dray.pipelines.config import JobConfig
from dray.pipelines.config_reference import describe

PAGE = Path(__file__).with_name("config.md")
HEAD = """# Config reference

All keys of the YAML file, by section. This page is generated from the schema; `dray config` prints the same.

Key names are those of `--set`: `--set engine.batch=16`. A key that is not in these tables is an error, and the message names
the nearest key that exists.
"""
CHOICES = re.compile(r" \[([^\[\]]* \| [^\[\]]*)\]$")  # which describe() puts at the end of a meaning


def page() -> str:
    """Returns the page as Markdown: a heading and a table for each section."""
    sections: dict[str, list[str]] = {}
    for key, default, meaning in describe(JobConfig):
        section = key.partition(".")[0] if "." in key else "top level"
        sections.setdefault(section, []).append(_row(key, default, meaning))
    first = {"top level": sections.pop("top level")}
    tables = (_table(name, rows) for name, rows in (first | sections).items())
    return "\n".join([HEAD, *tables])


def _table(section: str, rows: list[str]) -> str:
    intro = (JobConfig if section == "top level" else _section(section)).__doc__ or ""
    return "\n".join([f"## {section}", "", intro, "", "| key | choices | default | meaning |", "|---|---|---|---|", *rows, ""])


def _section(name: str) -> type:
    annotation = JobConfig.model_fields[name].annotation
    assert isinstance(annotation, type)
    return annotation


def _row(key: str, default: str, meaning: str) -> str:
    found = CHOICES.search(meaning)
    choices = ", ".join(f"`{choice.strip()}`" for choice in found[1].split("|")) if found else ""
    shown = "**required**" if default == "required" else f"`{default.strip()}`"
    return f"| `{key}` | {choices} | {shown} | {_escaped(CHOICES.sub('', meaning))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
