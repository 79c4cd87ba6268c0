"""What is finished, after whatever happened to earlier runs and to the input since."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.commits import finished_keys, undo
from jobs.inventory import Inventory, is_same, read_inventory
from jobs.keys import KeySet
from jobs.retry import release, released_keys, resume
from jobs.sources import Input
from jobs.storage import Folder, reason
from pipelines.config import JobConfig
from pipelines.errors import OutputError


@dataclass(frozen=True)
class Books:
    """Which rows are not to be done.

    Attributes:
        finished: their keys.
        earlier: how many rows earlier runs have finished.
    """

    finished: KeySet = field(default_factory=KeySet)
    earlier: int = 0


def known_files(output: Folder, again: bool) -> Inventory:
    """The files of earlier runs by name; without damaged ones, where another look at those is wanted. Raises OutputError."""
    try:
        known = read_inventory(output)
    except Exception as error:  # clients of object stores raise their own
        raise OutputError(f"output.path: cannot read {output.url}: {reason(error)}") from None
    return {name: source for name, source in known.items() if not (again and source.damaged)}


def open_books(config: JobConfig, output: Folder, data: Input, known: Inventory, again: bool) -> Books:
    """Takes back what was not committed, and rows whose files have changed; then says what is finished.

    Args:
        config: the job.
        output: its output folder.
        data: its input.
        known: the input's files as earlier runs have found them.
        again: only failed rows are to be done; they are taken back, too.

    Raises:
        OutputError: a file changed after rows of it were finished, and the config does not say that they be done again.
    """
    resume(output)
    finished = finished_keys(output)
    mended, changed = (keys.common(finished) for keys in _changed(data, known))
    if len(changed):
        _refuse_changed(config, known, changed)
        finished = undo(output, changed)
    if len(mended):
        finished = finished.without(release(output, mended))
    if not again:
        return Books(finished, data.finished_rows(finished))
    release(output)
    failed = released_keys(output).without(finished_keys(output))  # with those that an interrupted retry has left
    everything = KeySet.between(source.keys for source in data.sources)
    return Books(everything.without(failed), data.finished_rows(finished.without(failed)))


def _changed(data: Input, known: Inventory) -> tuple[KeySet, KeySet]:
    """Keys of files that are not what they were: of those that were damaged, and of the others."""
    earlier = [
        known[source.name] for source in data.sources if source.name in known and not is_same(source, known[source.name])
    ]
    mended = KeySet.between(source.keys for source in earlier if source.damaged)
    return mended, KeySet.between(source.keys for source in earlier if not source.damaged)


def _refuse_changed(config: JobConfig, known: Inventory, changed: KeySet) -> None:
    if config.input.changed == "redo":
        return
    files = [name for name, source in known.items() if len(changed.common(KeySet.between([source.keys])))]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise OutputError(
        f"input.path: {files[0]}{more} changed after {len(changed)} of its rows were finished; set input.changed: redo to "
        "have them done again, or start over with --fresh"
    )
