"""The documentation: its commands run and print what it shows, its links lead somewhere, and what is generated is current."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.places import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- ?(?P<mark>.*?) ?-->\n)?^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|^--8<-- \"(?P<included>[^\"]+)\"", re.MULTILINE)
MOST_LINES = 150  # of the README: what a newcomer reads
SECONDS = 240


@dataclass(frozen=True)
class ConsoleBlock:
    """Commands and what they print, as a page shows them. `mark` is the comment on the line before; "" if there is none."""

    page: Path
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.commands[0] if self.commands else self.text}"

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]

    @property
    def printed(self) -> list[str]:
        return [line for line in self.text.splitlines() if line and not line.startswith("$ ") and line.strip() != "..."]


BLOCKS = [
    ConsoleBlock(page, match["mark"] or "", match["text"]) for page in PAGES for match in BLOCK.finditer(page.read_text())
]


def collapsed(text: str) -> str:
    """The text with every number as 0, runs of spaces as one, and without the build that a version of torch names."""
    return re.sub(r"\d[\d.,]*", "0", re.sub(r"[ \t]+", " ", re.sub(r"\+(cpu|cu\d+)", "", text)))


def test_every_console_block_is_run_or_says_why_not():
    for block in BLOCKS:
        assert block.commands, f"{block.name} has no command"
        is_marked = block.mark == "run" or re.fullmatch(r"not run: .+", block.mark)
        assert is_marked, f"{block.name}: write <!-- run --> or <!-- not run: reason --> on the line before it"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark == "run"], ids=lambda block: block.name)
def test_commands_print_what_the_page_shows(block):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {
        "PATH": path,
        "RAY_AUTH_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "RAY_ADDRESS": "local",
        "CUDA_VISIBLE_DEVICES": "",
    }
    output = ""
    for command in block.commands:
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **settings}, timeout=SECONDS
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        output += done.stdout + done.stderr
    for line in block.printed:
        assert collapsed(line) in collapsed(output), f"{block.name} does not print {line!r}, but {output}"


def test_config_reference_is_what_the_generator_writes():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "reference" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run make docs"


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    for match in LINK.finditer(page.read_text()):
        target, included = match["target"], match["included"]
        if included:
            assert (ROOT / included).is_file(), f"{page} includes {included}, which is not there"
        elif not re.match(r"[a-z]+:|#", target):
            file = page.parent / target.partition("#")[0]
            assert file.is_file(), f"{page} links to {target}, which is not there"
