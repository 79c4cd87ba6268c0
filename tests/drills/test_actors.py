"""Workers and nodes die while a job runs, which goes on."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import builders
from support.drilling import TextJob, kill_one, text_job


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["Fused", "Preprocess", "Forward", "Postprocess"])
def test_actors_are_killed(cluster, slow_model, folder, book, operator):
    layout = "fused" if operator == "Fused" else "staged"
    texts = builders.texts(3000, median=8)
    job = text_job(folder, slow_model, cluster.address, texts, engine={"batch": 32, "layout": layout})
    process = job.start()
    kills = 0
    for commits in (0, 0) if operator == "Preprocess" else (1, 4):  # it is the first that has nothing left to do
        job.wait_for_commits(commits, process)
        kills += kill_one(f"MapBatches({operator})", lambda: process.poll() is None)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert kills == 2
    book(f"SIGKILL to the {operator} actor", "twice; the job went on", job.assert_complete())


@pytest.mark.slow
def test_write_tasks_are_killed(cluster, slow_model, folder, book):
    job = text_job(folder, slow_model, cluster.address, builders.texts(6000, median=8), engine={"batch": 32})
    process = job.start()
    job.wait_for_commits(1, process)
    kills = sum(kill_one("Write", lambda: process.poll() is None) for _ in range(5))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert kills >= 1
    book("SIGKILL to write tasks", f"{kills} times; the job went on", job.assert_complete())


@pytest.mark.slow
def test_gather_is_killed(cluster, models, folder, book):
    """The one actor that puts long recordings together dies with what it holds; those recordings are done again."""
    folder.mkdir()
    sounds = {f"r{seed}": builders.sound(60 + 7 * seed, seed) for seed in range(12)}
    cells = [{"array": samples, "sampling_rate": builders.RATE} for samples in sounds.values()]
    pq.write_table(pa.table({"audio": cells, "name": list(sounds)}), folder / "in.parquet")
    raw = {
        "task": "automatic-speech-recognition",
        "model": models.ctc,
        "input": {"path": str(folder / "in.parquet"), "id": "name"},
        "output": {"path": str(folder / "out")},
        "parameters": {"chunk_length_s": 1},
        "engine": {"layout": "staged", "batch": 1},
    }
    job = TextJob(folder, raw, dict.fromkeys(sounds, ""), cluster.address)
    undisturbed = TextJob(folder, {**raw, "output": {"path": str(folder / "quiet")}}, job.texts, cluster.address)
    assert undisturbed.run().returncode == 0
    process = job.start()
    killed = kill_one("MapBatches(Gather)", lambda: process.poll() is None)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert killed
    texts = [{row["id"]: row["prediction"]["text"] for row in each.rows()} for each in (job, undisturbed)]
    assert texts[0] == texts[1]
    assert len(job.rows()) == len(sounds)
    book("SIGKILL to the Gather actor", "its recordings were done again", f"{len(sounds)} in = {len(sounds)} ok, none twice")
