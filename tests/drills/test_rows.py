"""Rows that make trouble: each is found, the rest is as if it were not there."""

import re

import builders
import pytest
from drilling import text_job, trouble_model


def with_trouble(texts: list[str], **rows: list[int]) -> list[str]:
    """The texts with a word of trouble in some of them."""
    spoilt = list(texts)
    for word, positions in rows.items():
        for position in positions:
            spoilt[position] = f"{texts[position]} {word}"
    return spoilt


def places(job, *positions: int) -> list[str]:
    return [list(job.texts)[position] for position in positions]


@pytest.mark.parametrize("layout", ["fused", pytest.param("staged", marks=pytest.mark.slow)])
def test_rows_that_kill_or_stop_their_worker(cluster, trouble, folder, book, layout):
    """A segmentation fault, the kernel's out-of-memory killer, a hang with and one without Python's lock."""
    texts = with_trouble(builders.texts(200, median=8), crash=[17], oom=[42], hang=[90], freeze=[150], fail=[3, 44, 199])
    job = text_job(folder, trouble, cluster.address, texts)
    job.raw |= {"errors": {"timeout_s": 3, "max_failed_fraction": 0.1}, "engine": {"layout": layout}}
    done = job.run(timeout=500)
    assert done.returncode == 0, done.stderr
    bad = dict(zip(places(job, 17, 42, 90, 150), ["WorkerDied", "WorkerDied", "TimeoutError", "WorkerDied"], strict=True))
    balance = job.assert_complete(bad | dict.fromkeys(places(job, 3, 44, 199), "ValueError"))
    (deaths,) = re.findall(r"workers +(\d+) died of a row", done.stdout)
    errors = {row["id"]: row["error"] for row in job.rows("failed")}
    assert all(errors[name]["stage"] == "forward" for name in bad)
    assert "errors.timeout_s = 3 s" in errors[places(job, 90)[0]]["message"]
    assert {errors[name]["attempts"] for name in bad} == {2, 3}
    assert all(row["position"] == int(row["id"].rsplit(":", 1)[1]) for row in job.rows("failed"))
    book(f"rows that crash, hang or fail ({layout})", f"{deaths} workers died; each row found", balance)


def test_rows_that_ruin_the_accelerator(cluster, trouble, folder, book):
    """After a failed assertion in a CUDA kernel a process cannot use the card any more."""
    texts = with_trouble(builders.texts(120, median=8), ruin=[60])
    job = text_job(folder, trouble, cluster.address, texts, errors={"max_failed_fraction": 0.1})
    done = job.run()
    assert done.returncode == 0, done.stderr
    balance = job.assert_complete({places(job, 60)[0]: "AcceleratorError"})
    book("a row that ruins the accelerator", "the worker was replaced", balance)


def test_memory_that_is_too_small_for_the_batches(cluster, folder, tmp_path, book):
    model = trouble_model(tmp_path / "model", fitting=400)
    job = text_job(folder, model, cluster.address, builders.texts(300, median=20, longest=200))
    done = job.run()
    assert done.returncode == 0, done.stderr
    balance = job.assert_complete()
    (said,) = re.findall(
        r"(\d+ batches did not fit and were halved; batches now hold at most [\d,]+ padded elements)", done.stdout
    )
    assert int(re.findall(r"[\d,]+", said)[1].replace(",", "")) <= 400
    book("batches larger than the memory", said, balance)


def test_too_many_failed_rows_end_the_job_early(cluster, slow_model, folder, book):
    texts = builders.texts(3000, median=8)
    job = text_job(folder, slow_model, cluster.address, with_trouble(texts, fail=list(range(0, 3000, 3))))
    job.raw |= {"engine": {"batch": 8}, "errors": {"max_failed_fraction": 0.02}}
    done = job.run()
    assert done.returncode == 1
    assert re.search(
        r"dray: \d+ of 3000 rows failed, more than errors.max_failed_fraction = 0.02 allows; .* dray retry", done.stderr
    )
    assert "Traceback" not in done.stderr
    written = len(job.rows()) + len(job.rows("failed"))
    assert written < 2000
    job.raw["errors"]["max_failed_fraction"] = 0.5
    again = job.run("--set", "engine.batch=auto")
    assert again.returncode == 0, again.stderr
    balance = job.assert_complete(dict.fromkeys(places(job, *range(0, 3000, 3)), "ValueError"))
    book("too many failed rows", f"stopped after {written} of 3000 rows, continued with another limit", balance)
