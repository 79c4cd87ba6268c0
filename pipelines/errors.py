"""The exceptions of dray.

DrayError
├── UsageError            the user can correct it; exit 2, before any work
│   ├── ConfigError       in a key or value of the YAML file
│   ├── InputError        in the input
│   ├── OutputError       in the output folder
│   └── ModelError        in the model, or a parameter that it does not take
├── JobError              the work was started and cannot be finished; exit 1
│   └── StorageError      a storage or network failed repeatedly
├── FaultError            a bug in dray, not a bad row; the job stops
├── RowError              one row fails; the job continues
├── RequestError          a service cannot answer a request, because of the request
└── BusyError             a service has too many requests

LimitError (a ValueError) is raised for media that are too long or too large; it becomes a RowError.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Sequence
from pathlib import Path

STAND_INS = ("dray.pipelines.internals.linear",)  # modules whose functions replace a library's
MESSAGE_CHARACTERS = 2000  # of the message of a failed row: decoders and tokenizers may quote the whole input


class DrayError(Exception):
    """The base of all errors that dray raises on purpose. The message is one sentence that says what to do."""


class UsageError(DrayError):
    """A mistake of the user, found before any work was done."""


class ConfigError(UsageError):
    """The config is not valid; the message names the key."""


class InputError(UsageError):
    """The input cannot be read: there is no such path, format or column, or there are no rows."""


class OutputError(UsageError):
    """The output folder cannot be written, or holds the results of another job."""


class ModelError(UsageError):
    """The model cannot be loaded, does not fit the task, or refuses a parameter."""


class JobError(DrayError):
    """The job was started and cannot be finished."""


class RowError(DrayError):
    """One row cannot be processed.

    Attributes:
        stage: the phase that failed: "read", "preprocess", "forward" or "postprocess".
        kind: the name of the underlying exception's class.
        attempts: how often the row was tried.
    """

    def __init__(self, stage: str, kind: str, message: str, attempts: int = 1) -> None:
        """`message` says what is wrong with the row; it is shortened to MESSAGE_CHARACTERS and made valid UTF-8."""
        super().__init__(_presentable(message) or kind)
        self.stage, self.kind, self.attempts = stage, kind, attempts

    @classmethod
    def wrap(cls, stage: str, error: BaseException) -> RowError:
        """A RowError for an error that a row raised in phase `stage`; a RowError is returned unchanged."""
        if isinstance(error, cls):
            return error
        return cls(stage, type(error).__name__, _said(error))

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str, str, int]]:
        """Pickles with all its arguments."""
        return type(self), (self.stage, self.kind, str(self), self.attempts)


class FaultError(DrayError):
    """A bug in dray: no row is to blame, and the job stops."""

    @classmethod
    def of(cls, error: BaseException) -> FaultError:
        """A FaultError for an exception; the message has the place where it was raised."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
        what = f"{type(error).__name__}: {first_line(error)}"
        return cls(f"a fault of dray, and not of a row: {what} (at {place}); please report it")


class LimitError(ValueError):
    """A medium is longer or larger than the service allows."""


class BusyError(DrayError):
    """A service does not accept the request now; the client may try again later."""


class RequestError(DrayError):
    """A client's request cannot be answered, because of the request. The message is for the client.

    Attributes:
        status: of the HTTP answer: 401, 404, 413 or 422.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        """`message` says what is wrong; it must not reveal anything about this machine."""
        super().__init__(message)
        self.status = status


def is_own_fault(error: BaseException) -> bool:
    """Whether dray's own code raised this error, not a library or the model.

    Code in STAND_INS, which replaces operations of a library, does not count as dray's.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return module.startswith("dray.") and module not in STAND_INS


def _said(error: BaseException) -> str:
    try:
        return str(error) or repr(error)
    except Exception:  # some errors make their message in __str__, which may raise too
        return ""


def _presentable(message: str) -> str:
    """The message cut to MESSAGE_CHARACTERS characters, with lone surrogates as escapes."""
    cut = f"... ({len(message)} characters)" if len(message) > MESSAGE_CHARACTERS else ""
    kept = message[: MESSAGE_CHARACTERS - len(cut)].encode("utf-8", "backslashreplace").decode()
    return kept[: MESSAGE_CHARACTERS - len(cut)].strip() + cut


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class if the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: BaseException) -> str:
    """The message of an I/O error, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean X?` for the known name nearest to `name`; `; known are ...` if none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


class StorageError(JobError, OSError):
    """A storage failed repeatedly, and is not tried again in this run."""
