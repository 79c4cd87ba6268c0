"""Which rows are finished, whatever interrupted earlier runs or changed in the input."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dray.jobs.columns import WHOLE_FILE
from dray.jobs.inputs.dataset import Input
from dray.jobs.inputs.inventory import Inventory, is_same, read_inventory
from dray.jobs.keys import KeySet
from dray.jobs.outputs.commits import finished_keys, undo
from dray.jobs.outputs.retry import failed_keys, release, released_keys, resume
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import OutputError, reason


@dataclass(frozen=True)
class FinishedRows:
    """The rows that a run must not do.

    Attributes:
        keys: the keys of these rows.
        earlier: how many rows earlier runs have finished.
    """

    keys: KeySet = field(default_factory=KeySet)
    earlier: int = 0


def known_files(output: Folder, again: bool) -> Inventory:
    """The files of earlier runs by name; with `again` without damaged ones, which are inspected again. Raises OutputError."""
    try:
        known = read_inventory(output)
    except Exception as error:  # clients of object stores raise their own classes
        raise OutputError(f"output.path: cannot read {output.url}: {reason(error)}") from None
    return {name: source for name, source in known.items() if not (again and source.damaged)}


def finished_rows(config: JobConfig, output: Folder, data: Input, known: Inventory, again: bool) -> FinishedRows:
    """The rows that this run must not do. Rolls back first what was not committed, and the rows of changed files.

    Args:
        config: the job.
        output: its output folder.
        data: its input.
        known: the input's files as earlier runs have found them.
        again: do only failed rows; they are rolled back, too.

    Raises:
        OutputError: a file changed after rows of it were finished, and `input.changed` is not "redo".
    """
    resume(output)
    finished = finished_keys(output)
    mended, changed = (keys.common(finished) for keys in _changed(data, known))
    if len(changed):
        mended = KeySet.union([mended, _only_failed(output, data, changed)])
        changed = changed.without(mended)
    if len(changed):
        _refuse_changed(config, known, changed)
        finished = undo(output, changed)
    if len(mended):
        finished = finished.without(release(output, mended))
    if not again:
        return FinishedRows(finished, data.finished_rows(finished))
    release(output)
    finished, released = finished_keys(output), released_keys(output)  # also those of an interrupted retry
    failed = KeySet.union([released, _mended(data, released)]).without(finished)
    everything = KeySet.between(source.keys for source in data.sources)
    return FinishedRows(everything.without(failed), data.finished_rows(finished))


def _mended(data: Input, released: KeySet) -> KeySet:
    """The rows of files that were damaged, and so one failed row each, and that can be read now."""
    whole = np.array([source.first_key + WHOLE_FILE for source in data.sources], np.uint64)
    was_failed = released.holds(whole)
    return KeySet.between(
        source.keys for source, was in zip(data.sources, was_failed, strict=True) if was and not source.damaged
    )


def _only_failed(output: Folder, data: Input, changed: KeySet) -> KeySet:
    """The finished rows of changed files of which every finished row failed: no result is lost if they are done again."""
    failed = failed_keys(output).common(changed)
    starts, stops = data.key_ranges
    is_bad = changed.counts(starts, stops) == failed.counts(starts, stops)
    return changed.common(KeySet.between(zip(starts[is_bad].tolist(), stops[is_bad].tolist(), strict=True)))


def _changed(data: Input, known: Inventory) -> tuple[KeySet, KeySet]:
    """The keys of files that have changed since earlier runs: of those that were damaged then, and of the others."""
    earlier = [
        known[source.name] for source in data.sources if source.name in known and not is_same(source, known[source.name])
    ]
    mended = KeySet.between(source.keys for source in earlier if source.damaged)
    return mended, KeySet.between(source.keys for source in earlier if not source.damaged)


def _refuse_changed(config: JobConfig, known: Inventory, changed: KeySet) -> None:
    if config.input.changed == "redo":
        return
    ranges = np.array([source.keys for source in known.values()], np.uint64)
    concerned = changed.counts(ranges[:, 0], ranges[:, 1]) > 0
    files = [name for name, is_concerned in zip(known, concerned, strict=True) if is_concerned]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise OutputError(
        f"input.path: {files[0]}{more} changed after {len(changed)} of its rows were finished; set input.changed: redo to "
        "have them done again, or start over with --fresh"
    )
