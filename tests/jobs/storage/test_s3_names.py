"""Every private name of s3fs that dray overrides or calls is there, and takes what it is given."""

import inspect

import fsspec
import pytest
import s3fs

CALLED = [
    ("_prepare_config_kwargs", ()),
    ("_call_s3", ("method",)),
    ("_exists", ("path",)),
    ("_isfile", ("path",)),
    ("_info", ("path",)),
    ("_walk", ("path", "maxdepth")),
    ("split_path", ("path",)),
    ("set_session", ("refresh",)),
]


@pytest.mark.parametrize(("name", "parameters"), CALLED, ids=[name for name, _ in CALLED])
def test_it_is_there_and_takes_what_it_is_given(name, parameters):
    known = inspect.signature(getattr(s3fs.S3FileSystem, name)).parameters
    assert set(parameters) <= known.keys(), f"{name} now takes {', '.join(known)}"


def test_what_is_read_is_there():
    source = inspect.getsource(s3fs.S3FileSystem)
    assert "self._s3 =" in source
    assert "self._session_is_owned" in source


def test_fsspec_gives_the_filesystem_that_asks_again():
    from dray.jobs.storage.s3 import RetryingS3, install_retrying_s3

    install_retrying_s3()
    assert issubclass(fsspec.get_filesystem_class("s3"), RetryingS3)
    assert s3fs.S3FileSystem in fsspec.get_filesystem_class("s3").__mro__
