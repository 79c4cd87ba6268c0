"""The driver dies, is interrupted, or is started twice: the same command finishes the rest."""

import random
import re
import signal
import time

import pytest
from support import builders
from support.drilling import text_job

TEXTS = builders.texts(4000, median=8)


def interrupted(job, blow: signal.Signals, seconds: float = 0.0, commits: int = 1) -> bool:
    """Starts the job and sends the signal so long after so many more commits. Returns whether it was still running."""
    process = job.start()
    job.wait_for_commits(job.committed() + commits, process)
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(blow)
    _, error = process.communicate(timeout=60)
    if blow == signal.SIGINT and running:
        assert process.returncode == 1
        assert "dray: interrupted; the same command without --fresh continues" in error
        assert "Traceback" not in error
    return running


def finish(job) -> tuple[int, str]:
    """Runs the job to its end. Returns the rows that were finished before, and the balance."""
    done = job.run()
    assert done.returncode == 0, done.stderr
    (earlier,) = re.findall(r"([\d,]+) finished earlier", done.stdout)
    return int(earlier.replace(",", "")), job.assert_complete()


@pytest.mark.slow  # tests/jobs/batch/test_resume.py kills a driver in every run of the tests
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_an_interrupted_job_is_continued(cluster, slow_model, folder, book, blow):
    job = text_job(folder, slow_model, cluster.address, TEXTS, engine={"batch": 32})
    assert interrupted(job, blow)
    earlier, balance = finish(job)
    assert 0 < earlier < len(TEXTS)
    book(f"{blow.name} to the driver", f"continued after {earlier:,} rows", balance)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "S3"])
def test_killed_at_ten_random_moments(cluster, slow_model, folder, book, request, where):
    moments = random.Random(4)
    s3 = request.getfixturevalue("s3").options if where == "S3" else None
    job = text_job(folder, slow_model, cluster.address, builders.texts(80_000, median=8), s3, engine={"batch": 32})
    # Three while it starts, the others while rows are finished.
    plans = [(moments.uniform(3, 20), 0) for _ in range(3)] + [(moments.uniform(0, 6), 1) for _ in range(7)]
    moments.shuffle(plans)
    kills = sum(interrupted(job, signal.SIGKILL, seconds, commits) for seconds, commits in plans)
    assert kills == 10
    earlier, balance = finish(job)
    assert 0 < earlier < len(job.texts)
    book(f"SIGKILL to the driver at 10 random moments ({where})", f"the last run found {earlier:,} rows finished", balance)


@pytest.mark.slow
def test_two_runs_at_once(cluster, slow_model, folder, book):
    job = text_job(folder, slow_model, cluster.address, TEXTS, engine={"batch": 8})
    first = job.start()
    job.wait_for_commits(1, first)
    second = job.run()
    assert second.returncode == 2
    assert f"is being written by the run that process {first.pid} on " in second.stderr
    first.communicate(timeout=200)
    assert first.returncode == 0
    book("a second run into the same folder", "refused, naming the first", job.assert_complete())
