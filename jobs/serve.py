"""`dray serve`, and the application for Ray Serve's own command: `serve run dray.jobs.serve:app config=CONFIG`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ray.serve import Application

from dray.jobs.online import host
from dray.jobs.online.deployment import build
from dray.pipelines.config import load_config
from dray.pipelines.errors import ConfigError


def main(parsed: argparse.Namespace) -> int:
    """Serves the model until SIGINT or SIGTERM."""
    host.run(load_config(parsed.config, parsed.set), parsed.address)
    return 0


def app(arguments: Mapping[str, str]) -> Application:
    """The application of the config whose path is `arguments["config"]`. Raises ConfigError if there is none."""
    if "config" not in arguments:
        raise ConfigError("name a config: serve run dray.jobs.serve:app config=configs/sentiment.yaml")
    return build(load_config(arguments["config"]))
