"""Which wing may import which, how large a module may be, and that the command line stays instant."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.places import ROOT

from dray.pipelines.tasks.names import ALIASES, REMOVED
from dray.pipelines.tasks.table import TASKS

ENTRIES = ("cli", "run", "serve", "submit", "tune", "verify")
# A wing is a folder; the modules at the top of jobs/ are two: the entries, and what all wings of
# jobs/ need: names of columns, keys, versions.
# Each wing may import those that it names here, and no others. Every wing stands below those that name it: there is no circle.
PIPELINES = {
    "pipelines": (),
    "pipelines.internals": ("pipelines",),
    "pipelines.batching": ("pipelines", "pipelines.internals"),
    "pipelines.media": ("pipelines",),
    "pipelines.generation": ("pipelines", "pipelines.internals", "pipelines.batching"),
    "pipelines.tasks": (
        "pipelines", "pipelines.internals", "pipelines.batching", "pipelines.media", "pipelines.generation",
    ),
    "pipelines.phases": (
        "pipelines", "pipelines.internals", "pipelines.batching", "pipelines.media", "pipelines.generation", "pipelines.tasks",
    ),
    "pipelines.protocols": ("pipelines", "pipelines.batching", "pipelines.media", "pipelines.phases", "pipelines.tasks"),
    "pipelines.models": (
        "pipelines", "pipelines.internals", "pipelines.batching", "pipelines.phases", "pipelines.tasks",
    ),
    "pipelines.engine": (
        "pipelines", "pipelines.internals", "pipelines.batching", "pipelines.media", "pipelines.phases", "pipelines.tasks",
    ),
    "pipelines.online": ("pipelines", "pipelines.batching", "pipelines.engine", "pipelines.models", "pipelines.phases"),
}  # fmt: skip
MODEL_SIDE = tuple(PIPELINES)
JOBS = {
    "jobs": ("pipelines",),
    "jobs.storage": ("pipelines",),
    "jobs.cluster": ("pipelines",),
    "jobs.inputs.formats": ("jobs", "jobs.storage", "pipelines"),
    "jobs.inputs": ("jobs", "jobs.storage", "jobs.inputs.formats", "pipelines", "pipelines.tasks"),
    "jobs.outputs": (
        "jobs", "jobs.storage", "jobs.cluster", "jobs.inputs", "jobs.inputs.formats", "pipelines", "pipelines.models",
    ),
    "jobs.batch": (
        "jobs", "jobs.storage", "jobs.cluster", "jobs.inputs", "jobs.inputs.formats", "jobs.outputs", *MODEL_SIDE,
    ),
    "jobs.verification": (
        "jobs", "jobs.storage", "jobs.inputs", "jobs.outputs", "jobs.batch", "pipelines", "pipelines.engine",
        "pipelines.models",
    ),
    "jobs.online": ("jobs", "jobs.cluster", *MODEL_SIDE),
    "jobs entries": (
        "jobs", "jobs.storage", "jobs.cluster", "jobs.inputs", "jobs.outputs", "jobs.batch", "jobs.verification", "jobs.online",
        *MODEL_SIDE,
    ),
}  # fmt: skip
WINGS = {**PIPELINES, **JOBS, "dray": (*MODEL_SIDE, *JOBS)}
MOST_MODULES, MOST_LINES = 17, 300
HEAVY = ("torch", "transformers")  # take seconds to import: only where a model is needed

MODULES = sorted(path for folder in ("dray", "jobs", "pipelines") for path in (ROOT / folder).rglob("*.py"))


def wing_of(name: str) -> str:
    """The wing of a module, by its name without the leading `dray.`; of a package, the wing that it is."""
    parts = name.split(".")
    if parts[0] not in ("jobs", "pipelines"):
        return "dray"
    if parts[0] == "jobs" and len(parts) == 2 and parts[1] in ENTRIES:
        return "jobs entries"
    return name if (ROOT / Path(*parts)).is_dir() else ".".join(parts[:-1])


def imported(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, module, whether it is imported when the module is) of every import, also inside functions and for types alone."""
    tree = ast.parse(path.read_text())
    for statement in tree.body:
        is_for_types = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        is_early = not (is_for_types or isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)))
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, is_early) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write the whole name, from dray.jobs ..."
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    is_module = (ROOT / Path(*inner.split(".")[1:])).with_suffix(".py").is_file()
                    yield node.lineno, inner if is_module else str(node.module), is_early


def test_every_wing_has_a_line_in_the_table():
    found = {wing_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")) for path in MODULES}
    assert found == set(WINGS), "add the new folder to WINGS in this file, and say what it may import"


def test_there_is_no_circle():
    standing: set[str] = set()
    while len(standing) < len(WINGS):
        ready = {wing for wing, below in WINGS.items() if wing not in standing and standing >= set(below)}
        assert ready, f"these wings import each other: {sorted(WINGS.keys() - standing)}"
        standing |= ready


def misplaced_imports(path: Path) -> Iterator[str]:
    """A sentence for each import that the table forbids."""
    here = wing_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for line, module, _ in imported(path):
        if module.partition(".")[0] in ("jobs", "pipelines"):
            yield f"{path}:{line}: write dray.{module}, for a user's own folder may have that name"
        if module.partition(".")[0] != "dray" or module == "dray":
            continue
        there = wing_of(module.removeprefix("dray."))
        if there not in (here, *WINGS[here]):
            yield (
                f"{path}:{line}: {here} may not import {there}; move what both need into a wing below, "
                "or change WINGS in this file where the rule is wrong"
            )


def test_modules_import_only_what_their_wing_may():
    problems = [problem for path in MODULES for problem in misplaced_imports(path)]
    assert not problems, "\n".join(problems)


def test_ray_torch_and_transformers_stay_where_they_belong():
    for path in MODULES:
        side = path.relative_to(ROOT).parts[0]
        for line, module, is_early in imported(path):
            library = module.partition(".")[0]
            assert side == "jobs" or library != "ray", f"{path}:{line}: Ray is used in jobs/ only"
            assert not (is_early and library in HEAVY), f"{path}:{line}: import {library} inside the function that needs it"


def test_jobs_touches_models_only_through_pipelines():
    allowed = {"jobs/batch/worker.py": {"torch"}}  # sets torch's threads
    for path in MODULES:
        name = str(path.relative_to(ROOT))
        if name.startswith("jobs/"):
            found = {module.partition(".")[0] for _, module, _ in imported(path)} & set(HEAVY)
            assert found <= allowed.get(name, set()), f"{name} imports {sorted(found)}; let a function of pipelines/ do that"


def test_tasks_are_named_in_the_task_table_only():
    names = TASKS.keys() | ALIASES.keys() | REMOVED.keys()
    for path in MODULES:
        if not path.is_relative_to(ROOT / "pipelines" / "tasks"):
            for node in ast.walk(ast.parse(path.read_text())):
                is_name = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
                assert not is_name, f"{path}:{node.lineno}: let the task say it: add a field to Task in pipelines/tasks/task.py"


def test_folders_can_be_overlooked():
    for folder in {path.parent for path in MODULES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, f"{folder} has {len(modules)} modules; make a wing of those that belong together"


def test_modules_can_be_read_at_once():
    for path in [*MODULES, *(ROOT / "tests").rglob("*.py")]:
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path} has {lines} lines; split it where it changes its subject"


def test_help_is_instant_and_loads_nothing_heavy():
    code = "import sys, dray, dray.jobs.cli; dray.jobs.cli._parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not set(loaded.split()) & {*HEAVY, "ray", "pyarrow", "numpy", "pydantic", "yaml"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["submit", "--help"]])
def test_help_says_what_to_type(arguments):
    done = subprocess.run([sys.executable, "-m", "dray.jobs.cli", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "usage: dray" in done.stdout
