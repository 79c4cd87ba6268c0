"""The files of an input: what lies at its paths, and of which format it is."""

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
REPOSITORIES = ("datasets", "models", "spaces", "kernels", "buckets")  # kinds on the hub, as they begin a path
VERSIONS = ("etag", "md5hash", "contentmd5", "crc32c", "blobid", "lastmodified", "mtime", "modified", "updated")
ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json")  # lie beside the data and are none


@dataclass(frozen=True)
class InputPath:
    """A path of the input, resolved.

    Attributes:
        pattern: as the user wrote it.
        path: as the filesystem names it.
    """

    pattern: str
    fs: fsspec.AbstractFileSystem
    path: str

    def name(self, path: str) -> str:
        """A file found here as the user would write it: relative where the pattern is, a URL where it is one."""
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
    """The filesystem, and every file once, with name, path, format and size.

    Raises:
        InputError: nothing there, it cannot be listed, or it is not clear what is to be read.
    """
    found: dict[str, InputFile] = {}
    places = [_place(pattern, config) for pattern in config.paths]
    for place in places:
        if place.fs != places[0].fs:
            kinds = ", ".join(_protocol(each) for each in (places[0], place))
            raise InputError(
                f"input.path: {places[0].pattern} and {place.pattern} lie in different storages ({kinds}); run a job for each"
            )
        for source in _sources(place, config.format):
            found.setdefault(source.path, source)
    _refuse_mixed(config, found.values())
    return places[0].fs, list(found.values())


def _protocol(place: InputPath) -> str:
    return place.fs.protocol if isinstance(place.fs.protocol, str) else str(place.fs.protocol[0])


def _place(pattern: str, config: InputConfig) -> InputPath:
    url = pattern
    if pattern.startswith(HUB) and pattern.removeprefix(HUB).partition("/")[0] not in REPOSITORIES:
        url = f"{HUB}datasets/{pattern.removeprefix(HUB)}"
    try:
        fs, path = url_to_fs(url, **config.storage_options)
    except Exception as error:  # filesystems raise whatever they like
        raise _cannot_list(pattern, error) from None
    return InputPath(pattern, fs, path)


def _cannot_list(pattern: str, error: Exception) -> InputError:
    kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
    return InputError(f"input.path: cannot list {pattern}: {kind}{reason(error)}")


def _sources(place: InputPath, forced: str | None) -> list[InputFile]:
    """The files of one path, in order of their names."""
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
    except Exception as error:  # clients of object stores raise their own
        raise _cannot_list(place.pattern, error) from None


def _infos(place: InputPath) -> tuple[Infos, bool]:
    """What lies at a path without hidden files, and whether it is a folder. One listing, no call per file."""
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
    """Files whose name below `root`, and whose folders' names, do not mean: no data."""
    return {
        path: info
        for path, info in sorted(infos.items())
        if not any(part.startswith(("_", ".")) for part in path.removeprefix(root).split("/")) and _is_file(fs, path, info)
    }


def _is_file(fs: fsspec.AbstractFileSystem, path: str, info: Mapping[str, Any]) -> bool:
    if path.endswith("/") or info["type"] == "directory":
        return False
    return info["type"] == "file" or not fs.isdir(path)  # what a link leads to has to be asked for


def _data_of_saved(place: InputPath, infos: Infos) -> Infos:
    """The data files of a folder that `datasets` has saved, in its order; any other folder as it is."""
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
    """The format of each file; of a folder's files, those that are meant."""
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
    """Without `forced` the files of known formats; with it the files that are or may be of that format, or else all."""
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
    """Bytes of a file, as listed; where the listing lacks them, files that are rows are not asked."""
    size = info.get("size")
    if size is None and not format.is_row:
        size = fs.size(info["name"])
    return int(size or 0)


def _version(info: Mapping[str, Any]) -> str:
    """What the listing says of a file's content: a store's etag or checksum, or else when the file was changed."""
    known = {str(key).lower().replace("_", "").replace("-", ""): value for key, value in info.items()}
    return next((str(known[key]).strip('"') for key in VERSIONS if known.get(key)), "")


def _refuse_mixed(config: InputConfig, sources: Iterable[InputFile]) -> None:
    """Raises InputError where the files hold different things, for only one of them can be meant."""
    examples: dict[str, str] = {}
    for source in sources:
        examples.setdefault(FORMATS[source.format].holds, source.name)
    if len(examples) > 1:
        (one, first), (other, second), *_ = examples.items()
        holds = f"{', '.join(config.paths)} holds both {one} ({first}) and {other} ({second})"
        raise InputError(f"input.path: {holds}; set input.format, or a glob for one of them")
