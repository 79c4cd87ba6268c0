"""Versions: what is installed, and a line for what nobody has tried."""

import tomllib

import pytest
from support.places import ROOT

import dray
from dray.jobs import versions
from dray.jobs.cli import main


def test_the_tested_ranges_are_those_of_the_package():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, (first, last) in versions.TESTED.items():
        (line,) = [each for each in wanted if each.partition("[")[0].partition(">")[0] == name]
        assert line.endswith(f">={first},<{last}")


def test_what_is_installed_was_tested(monkeypatch):
    assert list(versions.untested()) == []
    monkeypatch.setattr(versions, "version", lambda name: "9.0" if name == "transformers" else "2.60.0")
    (sentence,) = versions.untested()
    assert sentence == "transformers 9.0 is outside of the range that dray is tested with, >=5.17,<5.25"


def test_an_untested_version_gets_a_line_and_no_refusal(monkeypatch, capsys):
    monkeypatch.setattr(versions, "version", lambda name: "9.0")
    assert main(["config"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [f"dray: {sentence}; it may work all the same" for sentence in versions.untested()]
    assert len(said) == 2


def test_the_command_says_its_versions(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"dray {dray.__version__} (ray 2.")
    assert all(f"{name} " in said for name in ("ray", "torch", "transformers"))
