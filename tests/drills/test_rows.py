"""Rows that make trouble: each is found, the rest is as if it were not there."""

import re

import pytest
from support import builders
from support.drilling import text_job, trouble_model


def with_trouble(texts: list[str], **rows: list[int]) -> list[str]:
    """The texts with a word of trouble in some of them."""
    spoilt = list(texts)
    for word, positions in rows.items():
        for position in positions:
            spoilt[position] = f"{texts[position]} {word}"
    return spoilt


def places(job, *positions: int) -> list[str]:
    return [list(job.texts)[position] for position in positions]


@pytest.mark.slow
def test_rows_that_kill_or_stop_their_worker(cluster, trouble, folder, book):
    texts = with_trouble(builders.texts(120, median=8), crash=[17], hang=[90], fail=[3, 44, 119])
    found_out(text_job(folder, trouble, cluster.address, texts), book, {17: "WorkerDied", 90: "TimeoutError"}, [3, 44, 119])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fused", "staged"])
def test_all_that_rows_can_do(cluster, trouble, folder, book, layout):
    """A segmentation fault, the kernel's out-of-memory killer, a hang with and one without Python's lock."""
    texts = with_trouble(builders.texts(200, median=8), crash=[17], oom=[42], hang=[90], freeze=[150], fail=[3, 44, 199])
    job = text_job(folder, trouble, cluster.address, texts, engine={"layout": layout})
    deadly = {17: "WorkerDied", 42: "WorkerDied", 90: "TimeoutError", 150: "WorkerDied"}
    found_out(job, book, deadly, [3, 44, 199])


def found_out(job, book, deadly: dict[int, str], failing: list[int]) -> None:
    job.raw |= {"errors": {"timeout_s": 3, "max_failed_fraction": 0.1}}
    done = job.run(timeout=500)
    assert done.returncode == 0, done.stderr
    bad = dict(zip(places(job, *deadly), deadly.values(), strict=True))
    balance = job.assert_complete(bad | dict.fromkeys(places(job, *failing), "ValueError"))
    (deaths,) = re.findall(r"workers +(\d+) died of a row", done.stdout)
    errors = {row["id"]: row["error"] for row in job.rows("failed")}
    for name, kind in bad.items():
        assert errors[name]["stage"] == "forward"
        assert errors[name]["attempts"] == (2 if kind == "TimeoutError" else 3)  # with its block; then alone
        assert ("errors.timeout_s = 3 s" in errors[name]["message"]) == (kind == "TimeoutError")
    assert all(row["source_row"] == int(row["id"].rsplit(":", 1)[1]) for row in job.rows("failed"))
    book(f"rows that crash, hang or fail ({job.layout})", f"{deaths} workers died; each row found", balance)


@pytest.mark.slow
def test_rows_that_ruin_the_accelerator(cluster, trouble, folder, book):
    """After a failed assertion in a CUDA kernel a process cannot use the card any more."""
    texts = with_trouble(builders.texts(120, median=8), ruin=[60])
    job = text_job(folder, trouble, cluster.address, texts, errors={"max_failed_fraction": 0.1})
    done = job.run()
    assert done.returncode == 0, done.stderr
    balance = job.assert_complete({places(job, 60)[0]: "AcceleratorError"})
    book("a row that ruins the accelerator", "the worker was replaced", balance)


@pytest.mark.slow
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


@pytest.mark.slow
def test_too_many_failed_rows_end_the_job_early(cluster, folder, tmp_path, book):
    model, texts = trouble_model(tmp_path / "model", seconds=0.01), builders.texts(900, median=8)
    failing = list(range(0, 900, 3))
    job = text_job(folder, model, cluster.address, with_trouble(texts, fail=failing), errors={"max_failed_fraction": 0.02})
    done = job.run()
    assert done.returncode == 1
    assert re.search(
        r"dray: \d+ of 900 rows failed, more than errors.max_failed_fraction = 0.02 allows; .* dray retry", done.stderr
    )
    assert "Traceback" not in done.stderr
    written = len(job.rows()) + len(job.rows("failed"))
    assert written < 800
    job.raw["errors"]["max_failed_fraction"] = 0.5
    again = job.run()
    assert again.returncode == 0, again.stderr
    balance = job.assert_complete(dict.fromkeys(places(job, *failing), "ValueError"))
    book("too many failed rows", f"stopped after {written} of 900 rows, continued with another limit", balance)
