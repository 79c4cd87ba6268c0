"""Lists the files of an input and finds their formats."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from dray.jobs.inputs.formats.file import InputFile
from dray.jobs.inputs.formats.registry import FORMATS, Format, format_of
from dray.pipelines.config import InputConfig
from dray.pipelines.errors import InputError, reason

if TYPE_CHECKING:
    import fsspec

Infos = Mapping[str, Mapping[str, Any]]  # path -> fsspec's information on it

HUB = "hf://"
REPOSITORIES = ("datasets", "models", "spaces", "kernels", "buckets")  # kinds on the hub, with which a path begins
VERSIONS = ("etag", "md5hash", "contentmd5", "crc32c", "blobid", "lastmodified", "mtime", "modified", "updated")
ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json")  # beside the data, but no data


@dataclass(frozen=True)
class InputPath:
    """A resolved path of the input.

    Attributes:
        pattern: the path as the user wrote it.
        fs: its filesystem.
        path: the path as the filesystem names it.
    """

    pattern: str
    fs: fsspec.AbstractFileSystem
    path: str

    def name(self, path: str) -> str:
        """The name of a file of this path, as the user would write it: relative if the pattern is, a URL if it is one."""
        if isinstance(self.fs, LocalFileSystem):
            relative = not os.path.isabs(os.path.expanduser(split_protocol(self.pattern)[1]))
            return os.path.relpath(path) if relative else path
        if "://" in path:
            return path
        first, chained, rest = self.pattern.partition("::")
        if "://" not in first:  # as in simplecache::s3://bucket
            first, chained, rest = self.pattern, "", ""
        return f"{split_protocol(first)[0]}://{path}{chained}{rest}"


def list_files(config: InputConfig) -> tuple[fsspec.AbstractFileSystem, list[InputFile]]:
    """The filesystem, and every file once, with name, path, format, size and version.

    Raises:
        InputError: there is no file, the path cannot be listed, or it is not clear which files to read.
    """
    files: dict[str, InputFile] = {}
    places = [_place(pattern, config) for pattern in config.paths]
    for place in places:
        if place.fs != places[0].fs:
            kinds = ", ".join(_protocol(each) for each in (places[0], place))
            raise InputError(
                f"input.path: {places[0].pattern} and {place.pattern} lie in different storages ({kinds}); run a job for each"
            )
        for source in _sources(place, config.format):
            files.setdefault(source.path, source)
    _refuse_mixed(config, files.values())
    return places[0].fs, list(files.values())


def _protocol(place: InputPath) -> str:
    return place.fs.protocol if isinstance(place.fs.protocol, str) else str(place.fs.protocol[0])


def _place(pattern: str, config: InputConfig) -> InputPath:
    url = pattern
    if pattern.startswith(HUB) and pattern.removeprefix(HUB).partition("/")[0] not in REPOSITORIES:
        url = f"{HUB}datasets/{pattern.removeprefix(HUB)}"
    try:
        fs, path = url_to_fs(url, **config.storage_options)
    except Exception as error:  # filesystems raise any class
        raise _cannot_list(pattern, error) from None
    return InputPath(pattern, fs, path)


def _cannot_list(pattern: str, error: Exception) -> InputError:
    kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
    return InputError(f"input.path: cannot list {pattern}: {kind}{reason(error)}")


def _sources(place: InputPath, forced: str | None) -> list[InputFile]:
    """The files of one path, sorted by name."""
    try:
        infos, is_folder = _infos(place)
        if is_folder and forced in (None, "arrow"):
            infos = _data_of_saved(place, infos)
        formats = _formats(place, list(infos), forced, is_folder)
        return [
            InputFile(
                place.name(path),
                path,
                format.name,
                size=_size(place.fs, infos[path], format),
                version=_version(infos[path]),
                is_media=format.is_row,
            )
            for path, format in formats.items()
        ]
    except InputError:
        raise
    except Exception as error:  # clients of object stores raise their own classes
        raise _cannot_list(place.pattern, error) from None


def _infos(place: InputPath) -> tuple[Infos, bool]:
    """The files at a path without hidden ones, and whether it is a folder. Lists once, without a call per file."""
    fs, path = place.fs, place.path
    marks = [path.index(mark) for mark in "*?[" if mark in path]
    if marks and not fs.exists(path):
        return _visible(fs, fs.glob(path, detail=True), path[: min(marks)].rpartition("/")[0]), False
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return {}, False
    if info["type"] == "directory" or path.endswith("/"):
        return _visible(fs, fs.find(path, detail=True), path), True
    return {path: info}, False


def _visible(fs: fsspec.AbstractFileSystem, infos: Infos, root: str) -> Infos:
    """The files below `root` that are not hidden: no name on their path begins with _ or a dot."""
    return {
        path: info
        for path, info in sorted(infos.items())
        if not any(part.startswith(("_", ".")) for part in path.removeprefix(root).split("/")) and _is_file(fs, path, info)
    }


def _is_file(fs: fsspec.AbstractFileSystem, path: str, info: Mapping[str, Any]) -> bool:
    if path.endswith("/") or info["type"] == "directory":
        return False
    return info["type"] == "file" or not fs.isdir(path)  # listings do not say what a link leads to


def _data_of_saved(place: InputPath, infos: Infos) -> Infos:
    """The data files of a folder that `datasets` has saved, in its order; all files of any other folder."""
    splits = _json(place, infos, "dataset_dict.json").get("splits")
    if splits:
        split = f"{place.pattern.rstrip('/')}/{splits[0]}"
        raise InputError(f"input.path: {place.pattern} holds the splits {', '.join(splits)}; choose one, as {split}")
    files = _json(place, infos, "state.json").get("_data_files")
    if files is None:
        return infos
    paths = [posixpath.join(place.path, file["filename"]) for file in files]
    for path in paths:
        if path not in infos:
            raise InputError(f"input.path: {place.name(path)} is not there, and {place.pattern}/state.json names it")
    return {path: infos[path] for path in paths}


def _json(place: InputPath, infos: Infos, name: str) -> dict[str, Any]:
    path = posixpath.join(place.path, name)
    content = json.loads(place.fs.cat_file(path)) if path in infos else None
    return content if isinstance(content, dict) else {}


def _formats(place: InputPath, paths: list[str], forced: str | None, is_folder: bool) -> dict[str, Format]:
    """The format of each file; of a folder, only the files to read."""
    if not paths:
        raise InputError(f"input.path: there is no file at {place.pattern}")
    if is_folder:
        return _formats_in_folder(place, paths, forced)
    formats = {path: FORMATS[forced] if forced else format_of(path) for path in paths}
    for path, format in formats.items():
        if format is None:
            name, known = place.name(path), ", ".join(FORMATS)
            raise InputError(f"input.format: cannot tell the format of {name} by its suffix; set it to one of {known}")
    return {path: format for path, format in formats.items() if format}


def _formats_in_folder(place: InputPath, paths: list[str], forced: str | None) -> dict[str, Format]:
    """Without `forced` the files of known formats; with it the files that may have that format, or all if there are none."""
    formats = {path: format_of(path) for path in paths if posixpath.basename(path) not in ABOUT_DATASETS}
    if forced is None:
        known = {path: format for path, format in formats.items() if format}
        if not known:
            raise InputError(
                f"input.path: there is no file of a known format in {place.pattern}: {', '.join(FORMATS)}; set input.format"
            )
        return known
    wanted = FORMATS[forced]
    fitting = [path for path, format in formats.items() if format is wanted or (format is None and wanted.is_row)]
    return dict.fromkeys(fitting or paths, wanted)


def _size(fs: fsspec.AbstractFileSystem, info: Mapping[str, Any], format: Format) -> int:
    """Bytes of a file, from the listing. Where it lacks them, media files count as 0, to save a call per file."""
    size = info.get("size")
    if size is None and not format.is_row:
        size = fs.size(info["name"])
    return int(size or 0)


def _version(info: Mapping[str, Any]) -> str:
    """The version of a file's content, from the listing: an etag, a checksum, or else the time of the last change."""
    known = {str(key).lower().replace("_", "").replace("-", ""): value for key, value in info.items()}
    return next((str(known[key]).strip('"') for key in VERSIONS if known.get(key)), "")


def _refuse_mixed(config: InputConfig, sources: Iterable[InputFile]) -> None:
    """Raises InputError where the files hold different kinds of data, because a job reads one kind."""
    examples: dict[str, str] = {}
    for source in sources:
        examples.setdefault(FORMATS[source.format].holds, source.name)
    if len(examples) > 1:
        (one, first), (other, second), *_ = examples.items()
        holds = f"{', '.join(config.paths)} holds both {one} ({first}) and {other} ({second})"
        raise InputError(f"input.path: {holds}; set input.format, or a glob for one of them")
