"""The wheel holds one package, `dray`, and works beside a user's own folders `jobs/` and `pipelines/`."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from support import builders
from support.jobs import rows_of, write_texts
from support.places import ROOT

SOURCES = ("dray", "jobs", "pipelines", "pyproject.toml", "README.md", "LICENSE")
# The environment of the tests has dray in it as an editable install, which a finder of its own brings.
UNINSTALLED = "sys.meta_path[:] = [each for each in sys.meta_path if 'editable' not in str(each).lower()]; "
SAYS = "import dray, dray.jobs.cli, dray.pipelines.config as config; print(dray.__version__, config.__file__)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    copy, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("dray-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; what dray needs is that of this one, without its own way to dray."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A user's folder, whose own packages must not be taken for dray's."""
    for name in ("jobs", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is not dray')\n")
    return tmp_path


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run([python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_the_wheel_holds_dray_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dray"}
    modules = {path.relative_to(ROOT) for folder in ("jobs", "pipelines") for path in (ROOT / folder).rglob("*.py")}
    assert {f"dray/{module}" for module in modules} <= set(names), "add the new folder to packages in pyproject.toml"
    assert {"dray/__init__.py", "dray/py.typed", "dray/jobs/batch/report.html"} <= set(names)


def test_it_is_imported_from_where_it_was_installed(python, beside):
    done = run(python, beside, "-c", SAYS)
    version, place = done.stdout.split()
    assert Path(place).is_relative_to(python.parents[1]), done.stderr
    assert run(python, beside, "-m", "dray.jobs.cli", "--version").stdout.startswith(f"dray {version} (ray ")


def test_a_checkout_is_imported_as_it_lies_there(beside):
    """Nothing is installed, and the user's own folders come first on the path."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); {UNINSTALLED}{SAYS}"
    done = run(Path(sys.executable), beside, "-c", code)
    assert str(ROOT / "pipelines" / "config.py") in done.stdout, done.stderr


def test_a_job_runs_from_the_wheel(python, beside, models):
    write_texts(beside / "in", builders.texts(6), 1)
    config = {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": "in"},
        "output": {"path": "out", "keep": ["n"]},
    }
    (beside / "job.yaml").write_text(json.dumps(config))
    done = run(python, beside, "-m", "dray.jobs.run", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert len(rows_of(beside / "out")) == 6
