"""Starts the generation server: `extra-rl serve generation --model FOLDER`."""

import asyncio

import torch
import transformers

from extra_rl.config_file import ConfigError
from extra_rl.v1 import generation_pb2_grpc
from extra_services.errors import ServiceError
from extra_services.generation.service import GenerationServicer
from extra_services.generation.settings import GenerationSettings
from extra_services.generation.transformers_engine import Options, TransformersEngine
from extra_services.generation.vocabulary import Vocabulary
from extra_services.runtime import server
from extra_services.runtime.settings import load

NAME = "extra_rl.v1.GenerationService"


def main(arguments: list[str]) -> None:
    """Serves with the settings in `arguments`, the environment and the config file."""
    settings = load(GenerationSettings, arguments)
    transformers.utils.logging.disable_progress_bar()
    server.run(settings, lambda: build(settings))


async def build(settings: GenerationSettings) -> server.Hosted:
    """Loads the model; ConfigError if it cannot be served."""
    if not settings.model.is_dir():
        raise ConfigError(f"model: there is no folder {settings.model}")
    vocabulary = Vocabulary(settings.model)
    try:
        engine = await asyncio.to_thread(TransformersEngine, _options(settings), vocabulary.decode)
    except ServiceError as error:
        raise ConfigError(f"model: {error.message}") from error
    servicer = GenerationServicer(engine, vocabulary, settings.model, settings.weights_root)
    add = generation_pb2_grpc.add_GenerationServiceServicer_to_server
    return server.Hosted({NAME: lambda grpc_server: add(servicer, grpc_server)}, engine.close)


def _options(settings: GenerationSettings) -> Options:
    return Options(
        model=settings.model,
        max_batch=settings.max_batch,
        max_prompts=settings.max_prompts,
        max_queue=settings.max_queue,
        max_model_len=settings.max_model_len,
        kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
        prefix_cache_bytes=int(settings.prefix_cache_gib * 2**30),
        dtype=None if settings.dtype == "auto" else getattr(torch, settings.dtype),
        device=None if settings.device == "auto" else settings.device,
        threads=settings.threads,
        seed=settings.seed,
        policy_version=settings.policy_version,
    )
