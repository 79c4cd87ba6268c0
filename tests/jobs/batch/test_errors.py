"""What the user reads when a job has stopped."""

import pytest
from ray.data._internal.util import _annotate_exception_with_retry_context
from ray.exceptions import RayTaskError

from dray.jobs.batch.job import _cause
from dray.pipelines.errors import StorageError


def test_the_sentence_of_dray_itself_is_found_in_what_ray_makes_of_it():
    error = StorageError("get_object s3://b/k failed 8 times in 30 s: SlowDown: Please reduce your request rate.")
    wrapped = RayTaskError("Write", "Traceback: ...", error).as_instanceof_cause()
    assert _cause(wrapped) == str(error)


@pytest.mark.parametrize("error", [StorageError("no answer"), ValueError("no answer")])
def test_what_ray_data_adds_about_its_retries_is_left_out(error):
    added = {"description": "apply UDF transform", "attempts": 1, "max_attempts": 1, "total_backoff_s": 0.0}
    annotated = _annotate_exception_with_retry_context(error, **added, exception_str=str(error))
    assert "attempts" in str(annotated)
    assert _cause(annotated).removeprefix("ValueError: ") == "no answer"


def test_other_errors_are_named():
    outer = RuntimeError("outer")
    outer.__cause__ = ValueError("first\n\nlast")
    assert _cause(outer) == "ValueError: last"
