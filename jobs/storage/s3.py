"""An S3 filesystem that retries single requests; other filesystems retry whole calls, see folder.py.

`install_retrying_s3` registers it in place of s3fs's. It retries requests, and continues the body of an answer where a
connection broke.
Its class is made at its first use, because importing s3fs takes long and local disk does not need it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from hashlib import md5
from typing import TYPE_CHECKING, Any

import fsspec

from dray.pipelines.transient import EXPIRED, Attempts, code_of

if TYPE_CHECKING:
    from fsspec.asyn import AsyncFileSystem as _Filesystem
else:
    _Filesystem = object


PIECE = 1 << 20  # bytes of a body that are read at a time
MAKING = threading.Lock()  # held while the class is made, so that it is made once


def install_retrying_s3() -> None:
    """Makes fsspec use the retrying S3 filesystem for s3:// in this process. Unpickling one installs it in other processes."""
    name = "S3FileSystem"
    for protocol in ("s3", "s3a"):
        fsspec.register_implementation(protocol, f"{__name__}.{name}", clobber=True, errtxt="Install s3fs to access S3")
        if protocol in fsspec.registry:
            fsspec.register_implementation(protocol, __getattr__(name), clobber=True)


def __getattr__(name: str) -> type:
    if name != "S3FileSystem":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import s3fs  # type: ignore[import-untyped]
    from fsspec.asyn import sync_wrapper

    with MAKING:
        if name not in globals():
            own = {"call_s3": sync_wrapper(RetryingS3._call_s3), "exists": sync_wrapper(RetryingS3._exists)}
            bases = (RetryingS3, s3fs.S3FileSystem)
            globals()[name] = type(name, bases, {"__module__": __name__, "__doc__": RetryingS3.__doc__, **own})
        made: type = globals()[name]
    return made


class RetryingS3(_Filesystem):  # type: ignore[misc]  # fsspec is untyped
    """s3fs's filesystem with retries in one place instead of three, whose numbers would multiply."""

    retries = 1

    def _prepare_config_kwargs(self) -> dict[str, object]:
        return {"retries": {"total_max_attempts": 1}, **super()._prepare_config_kwargs()}

    async def _call_s3(self, method: str, *options: dict[str, object], **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        """Calls S3. The body of a get_object can be read to its end even if a connection breaks."""
        answer = await self._answer(method, *options, **arguments)
        if method == "get_object":
            again = functools.partial(self._answer, method, *options, **arguments)
            answer["Body"] = Body(answer, again, self._what(method, arguments))
        return answer

    def _what(self, method: str, arguments: dict[str, Any]) -> str:
        path = "/".join(str(arguments[name]) for name in ("Bucket", "Key") if name in arguments)
        return f"{method} s3://{path} at {self.endpoint_url or 'S3'}"

    async def _answer(self, method: str, *options: dict[str, object], **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        attempts = Attempts(self._what(method, arguments))
        while True:
            client = self._s3
            try:
                answer: dict[str, Any] = await super()._call_s3(method, *options, **arguments)
                if method == "delete_objects":
                    _raise_for_keys(answer)
                return answer
            except FileNotFoundError:
                done = await self._done(method, arguments) if attempts.failed else None
                if done is None:
                    raise
                return done
            except Exception as error:
                known = await self._explained(method, arguments, error)
                pause = attempts.pause_after(known)
            if code_of(known) in EXPIRED:
                await self._renew(client)
            await asyncio.sleep(pause)

    async def _explained(self, method: str, arguments: dict[str, Any], error: Exception) -> Exception:
        """The reason why a HEAD was refused. Its answer has no text, so this is the error of a GET."""
        if not method.startswith("head_") or code_of(error) not in ("400", "403"):
            return error
        names = ("Bucket", "Key", "VersionId")
        target = {name: arguments[name] for name in names if name in arguments}
        try:
            if "Key" in target:
                (await super()._call_s3("get_object", **target, Range="bytes=0-0"))["Body"].close()
            else:
                await super()._call_s3("list_objects_v2", **target, MaxKeys=1)
        except Exception as other:
            if code_of(other) != "InvalidRange":  # the file is empty
                return other
        return ConnectionError(f"{method} was refused, and then a GET was not")

    async def _done(self, method: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a call on an upload that no longer exists because an earlier attempt succeeded; None if none did."""
        if method == "abort_multipart_upload":
            return {}
        if method != "complete_multipart_upload":
            return None
        parts = [part["ETag"].strip('"') for part in arguments["MultipartUpload"]["Parts"]]
        expected = f"{md5(bytes.fromhex(''.join(parts)), usedforsecurity=False).hexdigest()}-{len(parts)}"
        try:
            stored = await self._answer("head_object", Bucket=arguments["Bucket"], Key=arguments["Key"])
        except FileNotFoundError:
            return None
        return stored if stored.get("ETag", "").strip('"') == expected else None

    async def _renew(self, client: object) -> None:
        """Reads expired credentials again, once for each client, unless they come from the storage options."""
        if client is self._s3 and client is not getattr(self, "_expired", None) and not self.key and self._session_is_owned:
            self._expired = client
            await self.set_session(refresh=True)

    async def _exists(self, path: str) -> bool:
        """Whether a path exists. Raises if the bucket cannot be reached, where s3fs returns False."""
        bucket, key, _ = self.split_path(path)
        if key or not bucket:
            return bool(await super()._exists(path))
        try:
            await self._call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            return False
        except PermissionError:  # head_bucket is not allowed
            return bool(await super()._exists(path))
        return True

    async def _isfile(self, path: str) -> bool:
        """Whether a path is a file. Raises if it cannot be reached, where fsspec returns False."""
        try:
            return bool((await self._info(path))["type"] == "file")
        except FileNotFoundError:
            return False

    async def _walk(self, path: str, maxdepth: int | None = None, **options: Any) -> AsyncIterator[tuple[Any, Any, Any]]:  # noqa: ANN401
        """Walks a folder. Raises for folders that cannot be listed, which fsspec leaves out."""
        options.setdefault("on_error", _raise_unless_missing)
        async for entry in super()._walk(path, maxdepth=maxdepth, **options):
            yield entry


def _raise_unless_missing(error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _raise_for_keys(answer: dict[str, Any]) -> None:
    """Raises the first error of a bulk delete, which comes with status 200."""
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]
    from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]

    for error in answer.get("Errors", []):
        raise translate_boto_error(ClientError({"Error": error}, "DeleteObjects"))


class Body:
    """The content of an object. If a connection breaks, it continues with another."""

    def __init__(self, answer: dict[str, Any], again: Callable[..., Any], what: str) -> None:
        """`answer`: of get_object; `again`: repeats the call with more arguments; `what`: names the call in messages."""
        self._body, self._again, self._what = answer["Body"], again, what
        first, last = 0, int(answer.get("ContentLength", 0)) - 1
        if "ContentRange" in answer:  # bytes 100-199/1000
            first, last = map(int, answer["ContentRange"].split()[-1].split("/")[0].split("-"))
        self._next, self._last, self._tag = first, last, answer.get("ETag")
        self._attempts = Attempts(what)

    async def read(self, amount: int | None = None) -> bytes:
        """At most `amount` bytes, empty only at the end; all bytes that are left if `amount` is None or negative."""
        if amount is not None and amount >= 0:
            return await self._some(amount)
        parts = []
        while part := await self._some(PIECE):
            parts.append(part)
        return b"".join(parts)

    async def _some(self, amount: int) -> bytes:
        while True:
            try:
                part: bytes = await self._body.read(amount)
            except Exception as error:
                if self._next > self._last:  # complete, but its checksum is wrong
                    raise
                pause = self._attempts.pause_after(error)
            else:
                if part:
                    self._next += len(part)
                    self._attempts = Attempts(self._what)
                return part
            self.close()
            await asyncio.sleep(pause)
            same = {"IfMatch": self._tag} if self._tag else {}
            self._body = (await self._again(**same, Range=f"bytes={self._next}-{self._last}"))["Body"]

    def close(self) -> None:
        """Closes the connection."""
        self._body.close()
