"""Tasks that write, side by side."""

import itertools
import time
from types import SimpleNamespace
from unittest.mock import Mock

import ray
from ray.data.datasource import Datasink

from dray.jobs.batch.dataflow import write

PLAN = SimpleNamespace(task_cpus=0.1, disk_tasks=1)


def slow() -> Datasink:
    """Writes nothing to a local folder, takes its time over it, and keeps when that was."""

    class Slow(Datasink):  # in here it travels to the tasks as it is
        is_local = True
        spans = ()

        def write(self, blocks, ctx):
            began = time.monotonic()
            time.sleep(0.2)
            return began, time.monotonic()

        def on_write_complete(self, write_result):
            self.spans = write_result.write_returns

    return Slow()


def test_local_files_are_written_by_few_tasks_at_once(ray_session):
    sink = slow()
    write(ray.data.range(8, override_num_blocks=8), sink, PLAN)
    assert len(sink.spans) == 8
    ordered = sorted(sink.spans)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(ordered))


def test_an_object_store_is_waited_for_by_as_many_tasks_as_there_is_room_for():
    rows = Mock()
    write(rows, SimpleNamespace(is_local=False), PLAN)
    assert rows.write_datasink.call_args.kwargs["concurrency"] is None
