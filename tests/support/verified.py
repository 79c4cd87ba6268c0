"""A finished job whose results the tests of `dray verify` copy and damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dray.jobs.cli import main
from dray.jobs.outputs.commits import task_of
from support import builders

ROWS = 60


class Done:
    """A finished job, of whose results each test takes a copy."""

    def __init__(self, folder: Path, raw: dict) -> None:
        self.folder, self.raw, self.out = folder, raw, Path(raw["output"]["path"])

    def copy(self, to: Path) -> Done:
        shutil.copytree(self.out, to / "out")
        return Done(to, {**self.raw, "output": {**self.raw["output"], "path": str(to / "out")}})

    def verify(self, *arguments: str, sample: int = 0) -> int:
        config = self.folder / "job.yaml"
        config.write_text(yaml.safe_dump(self.raw))
        return main(["verify", str(config), "--sample", str(sample), *arguments])

    def file(self, status: str = "ok") -> Path:
        return sorted((self.out / "data" / f"status={status}").iterdir())[0]

    def checkpoint(self) -> Path:
        return self.out / "_dray/checkpoint" / f"{task_of(self.file().name)}.parquet"

    def change(self, change: Callable[[list[dict]], object]) -> str:
        """Changes the rows of one file of finished ones. Returns the first one's id."""
        path = self.file()
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            rows = table.to_pylist()
            change(rows)
            schema = pa.schema([field for field in table.schema if field.name in rows[0]])
            pq.write_table(pa.Table.from_pylist(rows, schema), path)
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            change(rows)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(rows[0]["id"])


def rows_of(shard: int) -> pa.Table:
    texts: list = builders.texts(ROWS // 3, seed=shard)
    texts[5] = None
    names = [f"row {shard}-{index}" for index in range(len(texts))]
    return pa.table({"text": texts, "n": list(range(len(texts))), "name": names})


def job(models, folder: Path, **changes: object) -> dict:
    (folder / "in").mkdir()
    for shard in range(3):
        pq.write_table(rows_of(shard), folder / "in" / f"part:{shard}.parquet", row_group_size=10)
    raw = {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "out"), "keep": ["n"]},
        "errors": {"max_failed_fraction": 0.5},
    }
    return {**raw, **changes}
