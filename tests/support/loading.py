"""The model side for a config, without a job around it."""

from dataclasses import replace

from dray.pipelines.config import OPENAI, JobConfig, parse_config
from dray.pipelines.models import loading
from dray.pipelines.models.resolved import ResolvedModel, resolve_model
from dray.pipelines.phases.phases import Phases
from dray.pipelines.protocols.batch import requests_task
from dray.pipelines.tasks.task import Task


def model_of(config: JobConfig) -> ResolvedModel:
    model = resolve_model(config)
    return replace(model, task=requests_task(model.task)) if config.input.format == OPENAI else model


def load_phases(config: JobConfig, weights: bool, device: str = "cpu") -> Phases:
    return loading.load_phases(model_of(config), weights, device)


def task_of(config: JobConfig) -> Task:
    return model_of(config).task


def identity_of(config: JobConfig) -> str:
    return resolve_model(config).identity


def for_workers(config: JobConfig) -> JobConfig:
    """The config that workers on other machines are given."""
    return resolve_model(config).config


def load(model: object, task: str, parameters: object = None, engine: object = None) -> Phases:
    """A model with its weights, for these parameters of the call and of the engine."""
    raw = {"task": task, "model": str(model), "parameters": parameters or {}, "engine": engine or {}}
    return load_phases(parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}}), weights=True)
