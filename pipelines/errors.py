"""The exceptions of dray.

DrayError
├── UsageError            the user can mend it; exit 2, before any work
│   ├── ConfigError       a key or value of the YAML file
│   ├── InputError        what is to be read
│   ├── OutputError       where the results are to go
│   └── ModelError        the model, or a parameter it does not take
├── JobError              the work was begun and could not be finished; exit 1
│   └── StorageError      a storage or network has failed again and again
├── FaultError            dray's own code is at fault, and no row; the job stops
├── RowError              one row fails; the job goes on
├── RequestError          a service cannot answer a request as it is
└── BusyError             a service has as many requests as it can take

LimitError (a ValueError) is what decoding raises for media that are too long or too large; it becomes a RowError.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Sequence
from pathlib import Path

STAND_INS = ("dray.pipelines.internals.linear",)  # modules whose functions stand in for a library's
MESSAGE_CHARACTERS = 2000  # of what a failed row says: decoders and tokenizers quote whole cells


class DrayError(Exception):
    """Anything dray raises on purpose. Its message is one sentence a user can act on."""


class UsageError(DrayError):
    """A mistake found before any work was done."""


class ConfigError(UsageError):
    """The config is not valid; the message names the key."""


class InputError(UsageError):
    """The input cannot be read: no such path, format, column, or no rows."""


class OutputError(UsageError):
    """The output folder cannot be written, or holds the result of different work."""


class ModelError(UsageError):
    """The model cannot be loaded, does not fit the task, or refuses a parameter."""


class JobError(DrayError):
    """The job was started and stopped before it was done."""


class RowError(DrayError):
    """One row cannot be processed.

    Attributes:
        stage: the phase that failed: "read", "preprocess", "forward" or "postprocess".
        kind: the name of the underlying exception's class.
        attempts: how often the row was tried.
    """

    def __init__(self, stage: str, kind: str, message: str, attempts: int = 1) -> None:
        """`message` says what is wrong with the row; it is shortened to MESSAGE_CHARACTERS, and made fit for UTF-8."""
        super().__init__(_presentable(message) or kind)
        self.stage, self.kind, self.attempts = stage, kind, attempts

    @classmethod
    def wrap(cls, stage: str, error: BaseException) -> RowError:
        """`error`, raised while `stage` worked on a row."""
        if isinstance(error, cls):
            return error
        return cls(stage, type(error).__name__, _said(error))

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str, str, int]]:
        """Pickles with all its arguments."""
        return type(self), (self.stage, self.kind, str(self), self.attempts)


class FaultError(DrayError):
    """A fault of dray's own code: no row is to blame, and the job stops."""

    @classmethod
    def of(cls, error: BaseException) -> FaultError:
        """The fault that an exception shows, with the place where it was raised."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
        what = f"{type(error).__name__}: {first_line(error)}"
        return cls(f"a fault of dray, and not of a row: {what} (at {place}); please report it")


class LimitError(ValueError):
    """A medium is longer or larger than its source allows."""


class BusyError(DrayError):
    """A service does not take the request now; it may later."""


class RequestError(DrayError):
    """A client's request cannot be answered as it is. The message is for the client.

    Attributes:
        status: of the HTTP answer: 401, 404, 413 or 422.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        """`message` says what is wrong, and nothing of this machine."""
        super().__init__(message)
        self.status = status


def is_own_fault(error: BaseException) -> bool:
    """Whether dray's own code has raised this, and not a library, or the model, that it called.

    Code that stands in for an operation of a library counts as the library's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return module.startswith("dray.") and module not in STAND_INS


def _said(error: BaseException) -> str:
    try:
        return str(error) or repr(error)
    except Exception:  # messages may be made only when they are asked for, and that fail
        return ""


def _presentable(message: str) -> str:
    """At most MESSAGE_CHARACTERS characters, the end cut off; lone surrogates as escapes."""
    cut = f"... ({len(message)} characters)" if len(message) > MESSAGE_CHARACTERS else ""
    kept = message[: MESSAGE_CHARACTERS - len(cut)].encode("utf-8", "backslashreplace").decode()
    return kept[: MESSAGE_CHARACTERS - len(cut)].strip() + cut


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: BaseException) -> str:
    """An I/O error in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean X?` for the known name nearest to `name`, or the whole list of names."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


class StorageError(JobError, OSError):
    """A storage has failed again and again; another attempt has to wait for a person, or for a later run."""
