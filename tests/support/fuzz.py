"""Bad inputs through the operators: each row ends in a prediction or an error, and nothing else happens.

As a script (`python -m support.fuzz [count] [seed]`) it feeds `count` inputs to a process of its own, so that a crash is seen,
prints what became of each kind, and exits with 1 if anything else than a result or a failed row came out.
"""

import ctypes
import functools
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pyarrow as pa

from dray.jobs.batch.stages import Fused
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT
from dray.pipelines.config import parse_config
from dray.pipelines.media import fetch
from support import arrow, conformance
from support.comparing import differences
from support.fuzz_inputs import Made
from support.fuzz_streams import block, column, streams
from support.loading import load_phases, model_of

MEDIA_BYTES = 4 << 20  # input.max_media_bytes of every stream
PEAK_BYTES = 3 << 30  # that the process may hold, torch, libraries and all models included
ADDRESSES = 12 << 30  # it may ask for; more raises MemoryError, which no row may end in
ROW_SECONDS, BLOCK_SECONDS = 30, 180
BLOCK = 40  # rows of a block


class Fuzzer:
    """The models and operators, each made when first asked for, and what they say to rows that are alone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.streams = folder, streams()

    @functools.cache  # noqa: B019  # lives as long as the process
    def worker(self, name: str) -> WorkerSpec:
        stream = self.streams[name]
        folder = self._folder / stream.build.__name__
        if not (folder / "config.json").exists():
            stream.build(folder)
        limits = {"input": {"path": "-", "max_media_bytes": MEDIA_BYTES}, "errors": {"timeout_s": 20}}
        raw = {"task": stream.task, "model": str(folder), "parameters": stream.parameters, "engine": {"batch": 4}}
        config = parse_config({**raw, **limits, "output": {"path": "-"}})
        columns = {stream.argument: stream.type, **{key: pa.scalar(value).type for key, value in stream.others.items()}}
        return WorkerSpec(model_of(config), load_phases(config, weights=False).schema(columns), threads=1, accelerator=False)

    @functools.cache  # noqa: B019
    def fused(self, name: str) -> Fused:
        return Fused(self.worker(name))

    def table(self, name: str, cells: list[object]) -> pa.Table:
        stream = self.streams[name]
        table = arrow.table_of([stream.others] * len(cells)) if stream.others else arrow.table_of([{"text": ""}] * len(cells))
        if not stream.others:
            table = table.drop_columns(ARGUMENT + "text")
        return table.append_column(ARGUMENT + stream.argument, column(cells, stream.type))

    @functools.cache  # noqa: B019
    def alone(self, name: str, which: int) -> object:
        got = self.fused(name)(self.table(name, [self.streams[name].good[which]]))
        assert got["error"][0].as_py() is None, (name, got["error"])
        return got["prediction"][0].as_py()

    def run(self, name: str, made: list[Made], layout: str = "fused") -> tuple[list[tuple[str, str, float]], list[str]]:
        """(kind, type and message of the error or "", seconds) of each row; and what should not have been."""
        table = self.table(name, [cell for _, cell in made])
        got = self.fused(name)(table) if layout == "fused" else conformance.staged(self.worker(name), table)
        got.validate(full=True)
        wrong = [] if got.num_rows == len(made) else [f"{len(made)} rows became {got.num_rows}"]
        rows = []
        for index, (kind, row) in enumerate(
            zip([kind for kind, _ in made], got.select(["prediction", "error", "meter"]).to_pylist(), strict=False)
        ):
            seconds = sum(row["meter"][f"{phase}_s"] for phase in ("preprocess", "forward", "postprocess"))
            problem = self._problem(name, index, kind, row, seconds)
            wrong += [f"{kind} (row {index}): {problem}"] if problem else []
            rows.append((kind, f"{row['error']['type']}: {row['error']['message']}" if row["error"] else "", seconds))
        return rows, wrong

    def _problem(self, name: str, index: int, kind: str, row: dict[str, object], seconds: float) -> str | None:
        error, prediction = row["error"], row["prediction"]
        if (error is None) == (prediction is None):
            return "neither a prediction nor an error" if error is None else "a prediction and an error"
        if seconds > ROW_SECONDS:
            return f"took {seconds:.0f} s"
        if error is None:
            good = self.streams[name].good
            different = kind == "GOOD" and differences(prediction, self.alone(name, index % len(good)))
            return f"another prediction than alone: {different[0]}" if different else None
        if kind == "GOOD":
            return f"failed beside others: {error['message']}"
        if error["stage"] not in ("read", "preprocess", "forward", "postprocess") or not error["type"]:
            return f"incomplete error: {error}"
        if not 0 < len(error["message"].strip()) <= 2000:
            return f"a message of {len(error['message'])} characters"
        if error["type"] == "MemoryError" or "can't allocate memory" in error["message"]:
            return f"wanted too much memory: {error['message']}"
        return None


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quiet() -> None:
    """No words of decoders, and no waiting for hosts that do not exist."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    fetch.FIRST_PAUSE = 0.01


def work(pipe: multiprocessing.connection.Connection, folder: str) -> None:
    """The child: blocks in, reports out, until None."""
    quiet()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    fuzzer = Fuzzer(Path(folder))
    while (order := pipe.recv()) is not None:
        name, seed, count, row, layout = order
        made = block(fuzzer.streams[name], seed, count)
        if row is not None:
            pipe.send(made[row][0])
        started = time.monotonic()
        try:
            report = fuzzer.run(name, made if row is None else [made[row]], layout)
        except Exception as error:  # what would have stopped a job
            report = [], [f"{type(error).__name__}: {str(error)[:300]}"]
        pipe.send((*report, peak(), time.monotonic() - started))
        if sys.platform == "linux":  # what is free and not given back would count at the next block
            ctypes.CDLL(None).malloc_trim(0)


class Child:
    """A process for the work; a new one after each death."""

    def __init__(self, folder: str) -> None:
        self._folder, self._process = folder, None

    def do(self, *order: object) -> object:
        """The report on an order; a string where the process died or hung over it."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=work, args=(theirs, self._folder), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send(order)
        kind = ""
        try:
            while self._pipe.poll(BLOCK_SECONDS):
                report = self._pipe.recv()
                if not isinstance(report, str):
                    return report
                kind = report
            end = f"not done after {BLOCK_SECONDS} s"
        except (EOFError, ConnectionError):
            self._process.join()
            end = f"the process died with exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._process = None
        return f"{kind}: {end}"


class Report:
    """What became of the inputs, by stream and kind."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
        self.wrong: list[str] = []
        self.peak, self.rows = 0, 0

    def add(self, child: Child, name: str, seed: tuple[int, ...], count: int, layout: str) -> None:
        """One block; where it kills the process, or stops it, each of its rows alone."""
        got = child.do(name, seed, count, None, layout)
        self.rows += count
        if isinstance(got, tuple) and (got[0] or not got[1]):
            rows, wrong, peak, _ = got
            self.peak = max(self.peak, peak)
            for kind, error, seconds in rows:
                self.kinds[name, kind].append((error, seconds))
            self.wrong += [f"{name}, seed {seed}, {layout}: {each}" for each in wrong]
            if peak > PEAK_BYTES:
                self.wrong.append(f"{name}, seed {seed}: {peak >> 20} MiB held; the bound is {PEAK_BYTES >> 20} MiB")
            return
        self.wrong.append(f"{name}, seed {seed}, {layout}: {got if isinstance(got, str) else got[1][0]}")
        for row in range(count):
            one = child.do(name, seed, count, row, layout)
            if isinstance(one, str) or one[1]:
                self.wrong.append(f"{name}, seed {seed}, row {row}, {layout}: {one if isinstance(one, str) else one[1][0]}")

    def print(self, seconds: float) -> None:
        """A line for each kind, then the sums."""
        print(f"{'stream, kind':<62}{'results':>8}{'failed':>7}{'slowest':>9}  most frequent error")
        for (name, kind), rows in sorted(self.kinds.items()):
            errors = Counter(error for error, _ in rows if error)
            most = ascii(errors.most_common(1)[0][0][:100])[1:-1] if errors else ""
            slowest = max(took for _, took in rows)
            print(f"{f'{name}: {kind}':<62}{len(rows) - errors.total():>8}{errors.total():>7}{slowest:>8.2f}s  {most}")
        rows = [row for each in self.kinds.values() for row in each]
        failed = sum(bool(error) for error, _ in rows)
        print(f"\n{self.rows} inputs in {seconds:.0f} s: {len(rows) - failed} results, {failed} failed rows, "
              f"{self.rows - len(rows)} neither; slowest row {max((row[1] for row in rows), default=0):.1f} s; "
              f"peak memory {self.peak >> 20} MiB (bound {PEAK_BYTES >> 20})")  # fmt: skip
        for each in self.wrong:
            print("VIOLATION", ascii(each))


def main(count: int = 10_000, seed: int = 0) -> int:
    """Feeds the inputs and prints the report; 1 where something else than a result or a failed row came out."""
    quiet()
    names, report, started = list(streams()), Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        child = Child(folder)
        for number, first in enumerate(range(0, count, BLOCK)):
            layout = "staged" if number % (5 * len(names)) >= 4 * len(names) else "fused"
            report.add(child, names[number % len(names)], (seed, number), min(BLOCK, count - first), layout)
    report.print(time.monotonic() - started)
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
