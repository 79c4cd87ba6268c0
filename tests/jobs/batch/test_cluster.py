"""Where it runs: an existing cluster, a submitted job, in-process Ray of any size; and what interruptions do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import builders
from support.jobs import rows_of, text_job, write_texts
from support.places import ROOT, free_port


def write_config(models, folder: Path, **changes: object) -> str:
    (folder / "job.yaml").write_text(yaml.safe_dump(text_job(models, folder, **changes)))
    return str(folder / "job.yaml")


def test_run_against_a_started_cluster(dray, models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(40), 2)
    done = dray("run", write_config(models, tmp_path), "--set", "engine.batch=4")
    assert done.returncode == 0, done.stderr
    assert "40: 40 ok, 0 failed, 0 finished earlier" in done.stdout
    assert str(tmp_path / "out/_dray/report.html") in done.stdout
    assert done.stderr == ""
    assert len(rows_of(tmp_path / "out")) == 40
    planned = dray("plan", write_config(models, tmp_path))
    assert "engine.layout  fused" in planned.stdout
    report = tmp_path / "out/_dray/report.html"
    report.unlink()
    assert dray("report", write_config(models, tmp_path)).stdout.strip() == str(report)
    assert "40 ok" in report.read_text()


def test_submitted_job(cluster, dray, tmp_path):
    """The bundled demo through `ray job submit --working-dir .` and through `dray submit`."""
    entry = f"python -m jobs.run configs/demo.yaml --set output.path={tmp_path}/a"
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--", *entry.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows_of(tmp_path / "a")) == 50
    overrides = ["--set", f"output.path={tmp_path}/b", "--set", "input.path=demo/speech/digits-00000-of-00004.parquet"]
    done = dray("submit", "configs/demo.yaml", "--address", cluster.dashboard, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13: 13 ok, 0 failed" in done.stdout
    assert len(rows_of(tmp_path / "b")) == 13


def test_submitting_to_nobody(dray):
    done = dray("submit", "configs/demo.yaml", "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "dray: --address: cannot submit to http://127.0.0.1:9" in done.stderr


def test_a_cluster_that_is_not_there(models, tmp_path, capsys):
    write_texts(tmp_path / "in", builders.texts(4), 1)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "dray.jobs.cli", "run", write_config(models, tmp_path), "--address", address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"dray: --address: no Ray cluster answers at {address}: Connection refused\n"


@pytest.mark.slow
def test_a_job_waits_for_its_share_of_a_busy_cluster(cluster, ray_session, models, tmp_path):
    """Two jobs that both planned with all CPUs would hold them with actors, and no task of either could run."""
    import ray

    class Holder:
        def ready(self):
            return True

    write_texts(tmp_path / "in", builders.texts(20), 1)
    holder = ray.remote(num_cpus=1)(Holder).remote()
    other = ray.remote(num_cpus=0.5)(Holder).remote()
    ray.get([holder.ready.remote(), other.ready.remote()])
    command = [sys.executable, "-u", "-m", "dray.jobs.cli", "run", write_config(models, tmp_path)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert re.fullmatch(r"waiting: other work on the cluster leaves 0\.\d+ of 2 CPUs\n", process.stdout.readline())
    ray.kill(holder)
    output, _ = process.communicate(timeout=120)
    ray.kill(other)
    assert process.returncode == 0
    assert "20: 20 ok" in output


LOCAL = """
import sys, ray
from dray.jobs.batch.job import run
from dray.pipelines.config import load_config
ray.init(address="local", num_cpus=int(sys.argv[2]), num_gpus=int(sys.argv[3]), include_dashboard=False, log_to_driver=False)
summary = run(load_config(sys.argv[1]))
assert (summary["rows_ok"], summary["rows_in"]) == (150, 150), summary
print(summary["plan"]["layout"], summary["plan"]["model"]["actors"], summary["plan"]["model"]["gpus"])
"""


@pytest.mark.parametrize(
    ("cpus", "gpus", "engine", "expected"),
    [
        pytest.param(1, 0, {}, "fused 1 0.0", marks=pytest.mark.slow),
        pytest.param(1, 0, {"layout": "staged"}, "staged 1 0.0", marks=pytest.mark.slow),
        pytest.param(2, 1, {}, "staged 1 1.0", marks=pytest.mark.slow),
        pytest.param(16, 0, {"layout": "fused", "copies": 4}, "fused 4 0.0", marks=pytest.mark.slow),
    ],
)
def test_progress_on_clusters_of_any_size(models, tmp_path, cpus, gpus, engine, expected):
    write_texts(tmp_path / "in", builders.texts(150), 3)
    config = write_config(models, tmp_path, engine=engine)
    command = [sys.executable, "-c", LOCAL, config, str(cpus), str(gpus)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert expected in done.stdout


BEGUN = """
import psutil, ray, signal
from dray.jobs.cluster.connect import Cluster
with Cluster("local") as cluster:
    cluster.begin()
    print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
    cluster.connect()
    print(ray.get(ray.remote(lambda: "at work").remote()), ray.is_initialized())
print(ray.is_initialized(), len(psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)[1]))
"""


def without_cluster(*command):
    """What a Python process gives that no cluster is offered to."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=120, env=environment)


def test_ray_that_was_begun_beside_other_work():
    done = without_cluster("-c", BEGUN)
    assert (done.stdout, done.stderr) == ("True\nat work True\nFalse 0\n", "")


AT_WORK = """
import os, time, psutil, ray
from dray.jobs.cluster.connect import connected
def work():
    time.sleep(3)
    return os.getpid()
with connected("local"):
    task = ray.remote(num_cpus=0)(work)
    processes = set(ray.get([task.remote() for _ in range(5)]))
    time.sleep(5)
    print(len(processes) > 1, all(map(psutil.pid_exists, processes)))
"""


def test_idle_processes_stay_for_the_next_tasks():
    """Ray's own way is to end all but one for each core after a second, and to start others for the next block."""
    done = without_cluster("-c", AT_WORK)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_ray_that_was_begun_ends_where_the_model_is_none(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(4), 1)
    raw = text_job(models, tmp_path, model=str(tmp_path / "in"))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    done = without_cluster("-m", "dray.jobs.cli", "run", str(tmp_path / "job.yaml"), "--address", "local")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"dray: model: .* holds no config.json.*\n", done.stderr)
