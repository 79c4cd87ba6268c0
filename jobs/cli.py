"""The `dray` command: its arguments, and the module that runs each subcommand."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence

import dray
from dray.pipelines.errors import DrayError, UsageError

# The commands import everything else, so that `dray --help` answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit code. 0: done; 1: stopped, or too many rows failed; 2: a mistake that was found before any work.
    """
    started = time.time()
    parsed = _parser().parse_args(arguments, argparse.Namespace(started=started))
    _warn_of_versions()
    try:
        command = importlib.import_module(f"dray.jobs.{parsed.module}")
        code: int = getattr(command, parsed.call)(parsed)
    except UsageError as error:
        print(f"dray: {error}", file=sys.stderr)
        return 2
    except DrayError as error:
        print(f"dray: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        rest = "; the same command without --fresh continues" if parsed.call == "main" and parsed.module == "run" else ""
        print(f"\ndray: interrupted{rest}", file=sys.stderr)
        return 1
    return code


def _warn_of_versions() -> None:
    """Prints a line on stderr for each library whose version dray was not tested with."""
    from dray.jobs.versions import untested

    for sentence in untested():
        print(f"dray: {sentence}; it may work all the same", file=sys.stderr)


class _Version(argparse.Action):
    """Prints the versions of dray and of what it runs on."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        from dray.jobs.versions import versions

        installed = versions()
        others = ", ".join(f"{name} {installed[name]}" for name in ("ray", "torch", "transformers") if name in installed)
        print(f"dray {dray.__version__} ({others})")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dray", description="Any transformers pipeline task over any amount of data, from one YAML file."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of dray, ray, torch and transformers")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser
    run = _command(add, "run", "run", "run a batch job, or continue it")
    run.add_argument("--fresh", action="store_true", help="delete what earlier runs have written and start over")
    run.add_argument("--address", help="Ray cluster; default: the one this machine is part of, else one in this process")
    run.set_defaults(again=False)
    retry = _command(add, "retry", "run", "run the rows that failed again, and no others")
    retry.add_argument("--address", help="as for run")
    retry.set_defaults(fresh=False, again=True)
    verify = _command(add, "verify", "verify", "count input and output again, and do a sample of the finished rows again")
    verify.add_argument(
        "--sample", type=int, default=20, metavar="N", help="rows to do again, one by one; 0: none (default: 20)"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the choice of these rows (default: 0)")
    verify.add_argument("--tolerance", type=float, help="of numbers (default: 1e-4, in half precision 0.05)")
    plan = _command(add, "plan", "run", "check a config and show what it means and how it would use the cluster", "plan")
    plan.add_argument("--address", help="Ray cluster")
    tune = _command(add, "tune", "tune", "find how large batches should be, with rows of the input, and remember it")
    tune.add_argument("--address", help="Ray cluster")
    serve = _command(add, "serve", "serve", "answer over HTTP with the model of a config")
    serve.add_argument("--address", help="Ray cluster; default: as for run")
    submit = _command(add, "submit", "submit", "run a batch job on a cluster, with this folder as its working directory")
    submit.add_argument("--fresh", action="store_true", help="as for run")
    submit.add_argument("--address", required=True, help="the cluster's dashboard, for example http://127.0.0.1:8265")
    submit.add_argument("--no-wait", action="store_true", help="return as soon as the job is submitted")
    _command(add, "report", "run", "write report.html of a finished job again and say where it lies", "report")
    config = add("config", help="print every config key, its default and what it means")
    config.set_defaults(module="cli", call="print_keys")
    return parser


def _command(
    add: Callable[..., argparse.ArgumentParser], name: str, module: str, help: str, call: str = "main"
) -> argparse.ArgumentParser:
    """The parser of a command with a config; `dray.jobs.MODULE.CALL(arguments)` runs it and returns the exit code."""
    parser = add(name, help=help)
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, as --set engine.batch=16")
    parser.set_defaults(module=module, call=call)
    return parser


def print_keys(parsed: argparse.Namespace) -> int:
    """Prints every config key, its default and what it means."""
    from dray.pipelines.config_reference import describe

    rows = describe()
    width = max(len(key) for key, _, _ in rows)
    for key, default, description in rows:
        note = "(required)" if default == "required" else f"(default: {default})"
        print(f"{key:<{width}}  {description} {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
