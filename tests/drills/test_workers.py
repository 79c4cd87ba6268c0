"""Workers and nodes die while a job runs, which goes on."""

import builders
import pytest
from drilling import kill_one, text_job

OPERATORS = ["Fused", "Preprocess", "Forward", "Postprocess"]


@pytest.mark.parametrize("operator", [*(pytest.param(name, marks=pytest.mark.slow) for name in OPERATORS[1:]), "Fused"])
def test_actors_are_killed(cluster, slow_model, folder, book, operator):
    layout = "fused" if operator == "Fused" else "staged"
    texts = builders.texts(3000, median=8)
    job = text_job(folder, slow_model, cluster.address, texts, engine={"batch": 32, "layout": layout})
    process = job.start()
    kills = 0
    for commits in (1, 4):
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
