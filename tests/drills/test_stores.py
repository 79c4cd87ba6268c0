"""The object store answers with errors, slowly, half, or not at all."""

import pytest
from support import builders
from support.drilling import text_job

pytestmark = pytest.mark.slow


def test_every_twentieth_request_fails(cluster, slow_model, s3, folder, book):
    job = text_job(folder, slow_model, cluster.address, builders.texts(3000, median=8), s3.options, engine={"batch": 32})
    s3.forget()
    s3.faults.rate = 0.05
    done = job.run()
    s3.faults.rate = 0.0
    assert done.returncode == 0, done.stderr
    faults = sum(s3.faults.counts.values())
    assert faults >= 5
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(s3.faults.counts.items()))
    book("S3: 5% of all requests fail", f"done, in spite of {kinds}", job.assert_complete())


def test_nothing_is_answered_for_a_while(cluster, slow_model, s3, folder, book):
    job = text_job(folder, slow_model, cluster.address, builders.texts(3000, median=8), s3.options, engine={"batch": 8})
    process = job.start()
    job.wait_for_commits(2, process)
    s3.faults.rate = 1.0
    _, error = process.communicate(timeout=400)
    s3.faults.rate = 0.0
    assert process.returncode == 1
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("dray: the job stopped")]
    assert "failed 8 times" in line
    assert "the same command without --fresh continues it" in line, error
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert " 0 finished earlier" not in done.stdout
    book("S3: all requests fail for a while", line.removeprefix("dray: ")[:90], job.assert_complete())


def test_an_endpoint_that_never_answers(cluster, slow_model, s3, folder, book):
    job = text_job(folder, slow_model, cluster.address, builders.texts(100, median=8), s3.options)
    s3.faults.rate = 1.0
    done = job.run()
    s3.faults.rate = 0.0
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dray: ")]
    assert "cannot" in line
    assert job.run().returncode == 0
    book("S3: out of reach from the start", line.removeprefix("dray: ")[:90], job.assert_complete())
