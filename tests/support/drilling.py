"""What the drills share: a job on texts, its expected rows, and ways to find and kill what runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
import yaml
from fsspec.core import url_to_fs

from dray.jobs.storage.folder import Folder
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item
from support import builders
from support.loading import load_phases
from support.modeling_trouble import TroubleConfig, TroubleForSequenceClassification
from support.places import ROOT

TROUBLES = ("fail", "ruin", "hang", "freeze", "crash", "oom")
SHARDS = 8
CODE = Path(__file__).with_name("modeling_trouble.py")


def trouble_model(folder: Path, seconds: float = 0.0, fitting: int = 1 << 40) -> str:
    """The model of modeling_trouble.py. A word of TROUBLES in a text makes that trouble."""
    tokenizer = builders.word_tokenizer()
    tokenizer.add_tokens(list(TROUBLES))
    words = {str(tokenizer.convert_tokens_to_ids(word)): word for word in TROUBLES}
    config = TroubleConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_attention_heads=1, num_hidden_layers=1, num_labels=3,
        seconds=seconds, fitting=fitting, words=words,
    )  # fmt: skip
    torch.manual_seed(0)
    TroubleForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(CODE, folder)
    known = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "TroubleConfig", "AutoModelForSequenceClassification": "TroubleForSequenceClassification"}
    known |= {"auto_map": {name: f"{CODE.stem}.{kind}" for name, kind in classes.items()}}
    (folder / "config.json").write_text(json.dumps(known))
    return str(folder)


@dataclass
class TextJob:
    """A job over texts in sharded Parquet files.

    Attributes:
        raw: the config.
        texts: by id.
    """

    folder: Path
    raw: dict
    texts: dict[str, str]
    cluster: str

    @property
    def layout(self) -> str:
        return self.raw.get("engine", {}).get("layout", "fused")

    @property
    def output(self) -> Folder:
        return Folder(self.raw["output"]["path"], self.raw["input"].get("storage_options", {}))

    def command(self, *arguments: str, verb: str = "run") -> list[str]:
        config = self.folder / "job.yaml"
        config.write_text(yaml.safe_dump(self.raw))
        return [sys.executable, "-u", "-m", "dray.jobs.cli", verb, str(config), *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.cluster}

    def start(self, *arguments: str, verb: str = "run") -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments, verb=verb), cwd=ROOT, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )  # fmt: skip

    def run(self, *arguments: str, verb: str = "run", timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, verb=verb)
        return subprocess.run(command, cwd=ROOT, env=self.environment(), text=True, capture_output=True, timeout=timeout)

    def rows(self, status: str = "ok") -> list[dict]:
        data = self.output / f"data/status={status}"
        if not data.files():
            return []
        return pads.dataset(data.path, filesystem=data.arrow()).to_table().to_pylist()

    def committed(self) -> int:
        """Write tasks that are done for good."""
        return len([path for path in (self.output / "_dray/checkpoint").files() if path.count(".") == 1])

    def wait_for_commits(self, count: int, process: subprocess.Popen[str], timeout: float = 180) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and process.poll() is None and self.committed() < count:
            time.sleep(0.05)

    def expected(self) -> dict[str, object]:
        """The predictions of an undisturbed run, of rows without trouble; the model gives the same at every batch size."""
        phases = load_phases(parse_config(self.raw), weights=True)
        quiet = {name: text for name, text in self.texts.items() if not set(TROUBLES) & set(text.split())}
        outcomes = predict(phases, [Item({"text": text}) for text in quiet.values()], phases.limits(512), Watchdog(600))
        return dict(zip(quiet, [outcome.prediction for outcome in outcomes], strict=True))

    def assert_complete(self, failed: dict[str, str] | None = None) -> str:
        """Each row once, with the undisturbed run's prediction, or as failed by `failed`: id -> type of error. The balance."""
        ok, bad = self.rows(), self.rows("failed")
        counts = Counter(row["id"] for row in [*ok, *bad])
        assert max(counts.values()) == 1, f"written twice: {[name for name, count in counts.items() if count > 1][:5]}"
        assert counts.keys() == self.texts.keys(), f"lost: {sorted(self.texts.keys() - counts.keys())[:5]}"
        assert {row["id"]: row["error"]["type"] for row in bad} == (failed or {})
        expected = self.expected()
        wrong = [row["id"] for row in ok if row["prediction"] != expected[row["id"]]]
        assert not wrong, f"other predictions than an undisturbed run: {wrong[:5]}"
        return f"{len(counts):,} in = {len(ok):,} ok + {len(bad):,} failed, none lost, none twice"


def text_job(folder: Path, model: str, cluster: str, texts: list[str], s3: dict | None = None, **keys: object) -> TextJob:
    """Texts in eight files, and a config for them.

    Args:
        folder: of the config, and of input and output.
        model: of text classification.
        cluster: its address.
        texts: the rows.
        s3: storage options; input and output are then in the bucket `drill`.
        keys: of the config.
    """
    folder.mkdir(parents=True)
    root = f"s3://drill-{folder.parent.name.replace('_', '-')}" if s3 else str(folder)
    fs, path = url_to_fs(root, **(s3 or {}))
    fs.mkdirs(f"{path}/in" if s3 is None else path, exist_ok=True)
    step, named = -(-len(texts) // SHARDS), {}
    for shard in range(SHARDS):
        name, rows = f"in/{shard:02}.parquet", texts[shard * step : (shard + 1) * step]
        with fs.open(f"{path}/{name}", "wb") as file:
            pq.write_table(pa.table({"text": rows}), file, row_group_size=50)
        named |= {f"{root}/{name}:{position}": text for position, text in enumerate(rows)}
    raw = {
        "task": "text-classification",
        "model": model,
        "model_kwargs": {"trust_remote_code": True},
        "input": {"path": f"{root}/in", "storage_options": s3 or {}},
        "output": {"path": f"{root}/out"},
    }
    return TextJob(folder, {**raw, **keys}, named, cluster)


def processes(title: str) -> Iterator[psutil.Process]:
    """Ray's workers whose title contains this: ray::MapWorker(MapBatches(Forward)), ray::Write ..."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith("ray::") and title in line:
            yield process


def kill_one(title: str, while_running: Callable[[], bool], timeout: float = 120) -> bool:
    """SIGKILL to the first such worker that shows up. Returns whether one did."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and while_running():
        for process in processes(title):
            try:
                process.kill()
                process.wait(10)
            except psutil.NoSuchProcess:
                continue
            return True
        time.sleep(0.01)
    return False
