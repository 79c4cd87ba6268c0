"""Finds a model's files and their version, and refuses files that may not be loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ModelError
from dray.pipelines.models import store

WHOLE = 64 << 20  # bytes; of larger files, the weights, only the size and the first and last MiB are hashed


@dataclass(frozen=True)
class ModelSource:
    """A model to load.

    Attributes:
        name: its name in the config or in transformers.
        location: what from_pretrained takes: a hub id or a local folder.
        revision: of a hub model; it holds the commit if that is known.
        stored: the files in an object store of which `location` is a copy.
    """

    name: str
    location: str
    revision: str | None = None
    stored: store.StoredModel | None = None

    @property
    def is_local(self) -> bool:
        """Whether `location` is a folder."""
        return Path(self.location).is_dir()


def locate(config: JobConfig, name: str, revision: str | None, weights: bool) -> ModelSource:
    """Finds a model, and fetches it from an object store.

    Args:
        config: the job; its storage options and `model_kwargs` are used.
        name: a hub id, a folder, or the URL of a folder in an object store.
        revision: of a hub model.
        weights: whether the weights are needed on this machine.

    Raises:
        ModelError: there is no such model, or it may not be loaded.
    """
    if name.startswith("file://"):
        name = name.removeprefix("file://")
    if store.is_url(name):
        return _from_store(config, name, revision, weights)
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if not path.is_dir():
            raise ModelError(f"model: there is no folder {name}")
        inside = path / str(config.model_kwargs.get("subfolder") or "")
        refuse_unusable(name, (file.name for file in inside.iterdir()) if inside.is_dir() else (), _may_unpickle(config))
        return ModelSource(name, str(path))
    from transformers.utils import resolve_revision

    kwargs = config.model_kwargs
    return ModelSource(
        name, name, resolve_revision(name, revision, token=kwargs.get("token"), cache_dir=kwargs.get("cache_dir"))
    )


def _from_store(config: JobConfig, url: str, revision: str | None, weights: bool) -> ModelSource:
    protocols = {path.partition("://")[0] for path in config.input.paths if store.is_url(path)}
    is_same_store = not protocols or url.partition("://")[0] in protocols
    model = store.find_model(url, config.input.storage_options if is_same_store else {}, _may_unpickle(config))
    inside = f"{config.model_kwargs.get('subfolder') or ''}/".lstrip("/")
    names = (name.removeprefix(inside) for name in model.files if name.startswith(inside))
    refuse_unusable(url, (name for name in names if "/" not in name), _may_unpickle(config))
    if revision not in (None, model.version):
        raise ModelError(
            f"model: {url} is version {model.version}, not {revision}; either its files were changed, "
            "or revision names another version: leave it out to take what is there"
        )
    return ModelSource(url, str(store.fetch(model, weights)), stored=model)


def _may_unpickle(config: JobConfig) -> bool:
    return config.model_kwargs.get("use_safetensors") is False


def refuse_unusable(name: str, files: Iterable[str], may_unpickle: bool) -> None:
    """Raises ModelError if the files of a folder are not a model, or if its weights may not be loaded."""
    names = list(files)
    if "config.json" not in names:
        raise ModelError(f"model: {name} holds no config.json, so it is not a model saved by transformers")
    if any(store.matches(file, ("*.safetensors",)) for file in names):
        return
    pickled = [file for file in names if store.matches(file, store.PICKLED)]
    if not pickled:
        raise ModelError(f"model: {name} holds no weights (*.safetensors)")
    if not may_unpickle:
        raise refused_pickle(name, min(pickled))


def refused_code(name: str) -> ModelError:
    """The error for a model that needs its own code."""
    return ModelError(
        f"model: {name} comes with code of its own, which would run on your machines; "
        "read it, then allow it with model_kwargs.trust_remote_code: true"
    )


def refused_pickle(name: str, file: str = "*.bin") -> ModelError:
    """The error for a model that has only pickled weights."""
    return ModelError(
        f"model: the weights of {name} are pickled ({file}), and unpickling runs any code that is in them; "
        "convert them to safetensors, or trust them with model_kwargs.use_safetensors: false"
    )


def refuse_pickled_on_hub(source: ModelSource, token: str | bool | None, cache_dir: str | None) -> None:
    """Raises ModelError if a hub model has only pickled weights; downloads nothing."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, has_file

    def has(name: str) -> bool:
        try:
            return bool(has_file(source.location, name, revision=source.revision, token=token, cache_dir=cache_dir))
        except OSError:  # no such model, or no access to it: loading its config gives a better message
            return False

    if not has(SAFE_WEIGHTS_NAME) and not has(SAFE_WEIGHTS_INDEX_NAME):
        pickled = next((name for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if has(name)), None)
        if pickled:
            raise refused_pickle(source.name, pickled)


def version(source: ModelSource, with_code: bool = False) -> str:
    """The version of a model: a hub model's commit, or a hash over the files of a folder or in a store.

    Args:
        source: the model.
        with_code: whether the hash includes the model's own code, because it is run.
    """
    if source.stored is not None:
        return source.stored.version
    if source.is_local:
        return _hash(Path(source.location), () if with_code else (".py",))
    return str(getattr(source.revision, "resolved", None) or source.revision or "main")


def _hash(folder: Path, without: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix not in (".md", *without) and path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            if size <= WHOLE:
                digest.update(content.read())
            else:
                digest.update(content.read(1 << 20))
                content.seek(-(1 << 20), 2)
                digest.update(content.read())
    return digest.hexdigest()[:16]
