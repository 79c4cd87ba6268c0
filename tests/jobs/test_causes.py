"""What the user reads when a job has stopped."""

from ray.exceptions import RayTaskError

from jobs.run import _cause
from pipelines.transient import StorageError


def test_the_sentence_of_dray_itself_is_found_in_what_ray_makes_of_it():
    error = StorageError("get_object s3://b/k failed 8 times in 30 s: SlowDown: Please reduce your request rate.")
    wrapped = RayTaskError("Write", "Traceback: ...", error).as_instanceof_cause()
    assert _cause(wrapped) == str(error)


def test_other_errors_are_named():
    outer = RuntimeError("outer")
    outer.__cause__ = ValueError("first\n\nlast")
    assert _cause(outer) == "ValueError: last"
