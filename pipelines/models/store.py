"""Lists a model's files in an object store, and fetches them once per node into a locked cache."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dray.pipelines.cache import cache_folder
from dray.pipelines.errors import ModelError, first_line

if TYPE_CHECKING:
    import fsspec

PICKLED = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.tflite", "*.ot", "*.gguf")
OF_TRAINING = ("optimizer.*", "scheduler.*", "rng_state*", "training_args.bin")
VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "content_md5", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class StoredModel:
    """A model in an object store.

    Attributes:
        url: of its folder.
        fs: the file system of the store.
        path: the folder's name in `fs`.
        files: the files that transformers needs: name below the folder -> (bytes, version of the content).
    """

    url: str
    fs: fsspec.AbstractFileSystem
    path: str
    files: Mapping[str, tuple[int, str]]

    @cached_property
    def version(self) -> str:
        """A hash of 16 hex digits, which changes when a file is added, removed or changed."""
        digest = hashlib.sha256(self.url.encode())
        for name, (size, version) in sorted(self.files.items()):
            digest.update(f"\n{name} {size} {version}".encode())
        return digest.hexdigest()[:16]


def is_url(model: str) -> bool:
    """Whether the model's name is a URL, not a hub id or a folder."""
    return "://" in model


def find_model(url: str, storage_options: Mapping[str, object], pickled: bool = False) -> StoredModel:
    """Lists a model's files.

    Args:
        url: a folder in an object store, as fsspec takes it.
        storage_options: as fsspec takes them.
        pickled: whether to include pickled weights where there are safetensors.

    Raises:
        ModelError: the folder is empty, or it cannot be listed.
    """
    from fsspec.core import url_to_fs

    if url.startswith(("http://", "https://")):
        raise ModelError(
            f"model: {url} is no folder; name a hub id, a local folder or an object store's URL like s3://bucket/model"
        )
    try:
        fs, path = url_to_fs(url, **storage_options)
        fs.invalidate_cache()
        found = fs.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:  # clients of object stores raise their own
        raise ModelError(f"model: cannot list {url}: {first_line(error)}") from None
    if not found:
        raise ModelError(f"model: there is nothing at {url}")
    names = {file.removeprefix(path).lstrip("/"): info for file, info in found.items()}
    kept = {name: (int(names[name].get("size") or 0), _version(names[name])) for name in needed(names, pickled)}
    return StoredModel(url, fs, path, kept)


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in VERSIONS if info.get(key) is not None), "")


def needed(names: Iterable[str], pickled: bool = False) -> list[str]:
    """The files that transformers needs: no weights of other frameworks; pickled ones only if there are no safetensors."""
    names = [name for name in names if not {"", "..", ".git"} & set(name.split("/"))]
    is_safe = any(matches(name, ("*.safetensors",)) for name in names)
    skipped = (*OTHER_FRAMEWORKS, *OF_TRAINING, *(PICKLED if is_safe and not pickled else ()))
    return [name for name in names if not matches(name, skipped)]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the last part of a file's name matches one of the patterns."""
    return any(fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)


def fetch(model: StoredModel, weights: bool) -> Path:
    """A local folder with the model: the copy of an earlier call, or a new one.

    Several processes that call this wait for the first. The folder appears when it is complete.

    Args:
        model: the listed model.
        weights: whether the weights are needed.

    Raises:
        ModelError: the model cannot be fetched or stored.
    """
    from filelock import FileLock

    cache = cache_folder()
    complete = cache / model.version
    folder = complete if weights or complete.is_dir() else cache / f"{model.version}-without-weights"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _download(model, [name for name in model.files if weights or not matches(name, WEIGHTS)], folder)
    except ModelError:
        raise
    except Exception as error:  # the store's client raises its own; or the disk is full
        raise ModelError(f"model: cannot fetch {model.url} to {folder}: {first_line(error)}") from None
    return folder


def _download(model: StoredModel, names: list[str], folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a download that was killed; this process holds the lock
    for name in names:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
    model.fs.get([f"{model.path}/{name}" for name in names], [str(partial / name) for name in names])
    for name in names:
        size, expected = (partial / name).stat().st_size, model.files[name][0]
        if size != expected:
            raise ModelError(f"model: {model.url}/{name} came with {size} bytes, not {expected}; it was changed meanwhile")
    partial.replace(folder)
