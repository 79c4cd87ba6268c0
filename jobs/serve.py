"""The application for Ray Serve's own commands: `serve run dray.jobs.serve:app config=CONFIG`, and Serve's config files."""

from __future__ import annotations

from collections.abc import Mapping

from ray.serve import Application

from dray.jobs.online.deployment import build
from dray.pipelines.config import load_config
from dray.pipelines.errors import ConfigError


def app(arguments: Mapping[str, str]) -> Application:
    """The application of the config that `arguments` names. Raises ConfigError where they name none."""
    if "config" not in arguments:
        raise ConfigError("name a config: serve run dray.jobs.serve:app config=configs/sentiment.yaml")
    return build(load_config(arguments["config"]))
