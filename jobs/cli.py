"""The `dray` command."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from dray.pipelines.errors import DrayError, UsageError

# Everything else is imported by the command that needs it: `dray --help` answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit code: 0 done, 1 aborted or over the limit, 2 a mistake found before any work.
    """
    started = time.time()
    parsed = _parser().parse_args(arguments, argparse.Namespace(started=started))
    try:
        code: int = parsed.run(parsed)
    except UsageError as error:
        print(f"dray: {error}", file=sys.stderr)
        return 2
    except DrayError as error:
        print(f"dray: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndray: interrupted; the same command continues", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dray", description="Any transformers pipeline task over any amount of data, from one YAML file."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a batch job, or continue it")
    _add_config(run)
    run.add_argument("--fresh", action="store_true", help="delete what earlier runs have written and start over")
    run.add_argument("--address", help="Ray cluster; default: the one this machine is part of, else one in this process")
    run.set_defaults(run=_run, again=False)
    retry = commands.add_parser("retry", help="run the rows that failed again, and no others")
    _add_config(retry)
    retry.add_argument("--address", help="as for run")
    retry.set_defaults(run=_run, fresh=False, again=True)
    verify = commands.add_parser("verify", help="count input and output anew, and do a sample of the finished rows again")
    _add_config(verify)
    verify.add_argument(
        "--sample", type=int, default=20, metavar="N", help="rows to do again, one by one; 0: none (default: 20)"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the choice of these rows (default: 0)")
    verify.add_argument("--tolerance", type=float, help="of numbers (default: 1e-4, in half precision 0.05)")
    verify.set_defaults(run=_verify)
    plan = commands.add_parser("plan", help="check a config and show how it would use the cluster, without running it")
    _add_config(plan)
    plan.add_argument("--address", help="Ray cluster")
    plan.set_defaults(run=_plan)
    tune = commands.add_parser("tune", help="find how large batches should be, with rows of the input, and remember it")
    _add_config(tune)
    tune.add_argument("--address", help="Ray cluster")
    tune.set_defaults(run=_tune)
    serve = commands.add_parser("serve", help="answer over HTTP with the model of a config")
    _add_config(serve)
    serve.add_argument("--address", help="Ray cluster; default: as for run")
    serve.set_defaults(run=_serve)
    submit = commands.add_parser("submit", help="run a batch job on a cluster, with this folder as its working directory")
    _add_config(submit)
    submit.add_argument("--fresh", action="store_true", help="as for run")
    submit.add_argument("--address", required=True, help="the cluster's dashboard, for example http://127.0.0.1:8265")
    submit.add_argument("--no-wait", action="store_true", help="return as soon as the job is submitted")
    submit.set_defaults(run=_submit)
    report = commands.add_parser("report", help="write report.html of a finished job anew and say where it lies")
    _add_config(report)
    report.set_defaults(run=_report)
    config = commands.add_parser("config", help="print every config key, its default and what it means")
    config.set_defaults(run=_config)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, as --set engine.batch=16")


def _run(parsed: argparse.Namespace) -> int:
    from dray.pipelines.config import load_config

    config = load_config(parsed.config, parsed.set)
    from dray.jobs.batch.job import run
    from dray.jobs.batch.report import table
    from dray.jobs.storage.folder import output_folder

    summary = run(config, parsed.fresh, parsed.address, parsed.again, parsed.started)
    print(table(summary, output_folder(config).url))
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    from dray.jobs.verify import verify
    from dray.pipelines.config import load_config

    verdict = verify(load_config(parsed.config, parsed.set), parsed.sample, parsed.seed, parsed.tolerance)
    print(verdict.table())
    return 1 if verdict.problems else 0


def _plan(parsed: argparse.Namespace) -> int:
    from dray.jobs.batch.preflight import check
    from dray.jobs.batch.report import plan_table
    from dray.jobs.cluster.connect import connected
    from dray.jobs.cluster.plan import cluster_nodes, make_plan
    from dray.pipelines.config import load_config

    job = check(load_config(parsed.config, parsed.set), dry=True)
    with connected(parsed.address):
        print(plan_table(make_plan(cluster_nodes(), job.config.engine, job.work), job.data.rows, job.rows_left))
    return 0


def _tune(parsed: argparse.Namespace) -> int:
    from dray.jobs.tune import tune
    from dray.pipelines.config import load_config

    print(tune(load_config(parsed.config, parsed.set), parsed.address).table())
    return 0


def _serve(parsed: argparse.Namespace) -> int:
    from dray.jobs.online.host import run
    from dray.pipelines.config import load_config

    run(load_config(parsed.config, parsed.set), parsed.address)
    return 0


def _submit(parsed: argparse.Namespace) -> int:
    from dray.jobs.submit import submit

    return submit(parsed.config, parsed.set, parsed.fresh, parsed.address, wait=not parsed.no_wait)


def _report(parsed: argparse.Namespace) -> int:
    from dray.jobs.batch.report import write_again
    from dray.pipelines.config import load_config

    print(write_again(load_config(parsed.config, parsed.set)))
    return 0


def _config(parsed: argparse.Namespace) -> int:
    from dray.pipelines.config_reference import describe

    rows = describe()
    width = max(len(key) for key, _, _ in rows)
    for key, default, description in rows:
        print(
            f"{key:<{width}}  {description} (default: {default})"
            if default != "required"
            else f"{key:<{width}}  {description} (required)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
