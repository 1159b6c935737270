"""`extra-rl serve generation --model FOLDER`: build the engine, and serve it."""

import asyncio
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from extra_rl.config_file import ConfigError
from extra_rl.v1 import generation_pb2_grpc
from extra_services.errors import ServiceError
from extra_services.generation import instruments
from extra_services.generation.engines.protocol import Engine
from extra_services.generation.engines.transformers.engine import TransformersEngine, TransformersOptions
from extra_services.generation.openai_api.sessions import Sessions
from extra_services.generation.service import GenerationServicer
from extra_services.generation.settings import GenerationSettings
from extra_services.generation.tokenizer import Tokenizer
from extra_services.runtime import server
from extra_services.runtime.info import server_info
from extra_services.runtime.settings import load

NAME = "extra_rl.v1.GenerationService"


def main(arguments: list[str]) -> None:
    """Serve with the settings in `arguments`, the environment and the config file, until stopped."""
    settings = load(GenerationSettings, arguments)
    transformers.utils.logging.disable_progress_bar()
    server.run(settings, lambda: build(settings))


async def build(settings: GenerationSettings) -> server.ServerSpec:
    """Load the model and build the server.

    Raises:
        ConfigError: The model cannot be served.
    """
    if not settings.model.is_dir():
        raise ConfigError(f"model: there is no folder {settings.model}")
    tokenizer = Tokenizer(settings.model)
    try:
        make = _vllm if settings.engine == "vllm" else _transformers
        engine = await make(settings, tokenizer)
    except ServiceError as error:
        raise ConfigError(f"model: {error.message}") from error
    instruments.watch(engine)
    servicer = GenerationServicer(
        engine, tokenizer, settings.model, settings.weights_root, server_info(settings)
    )

    def http_api() -> Any:
        # Imported late: its packages are there only for an HTTP port.
        from extra_services.generation.openai_api.routes import OpenAiApi

        sessions = Sessions(tokenizer, settings.max_sessions, settings.session_idle_seconds)
        return OpenAiApi(settings.model.absolute().name, tokenizer, engine.limits, sessions)

    add = generation_pb2_grpc.add_GenerationServiceServicer_to_server
    return server.ServerSpec(
        {NAME: lambda grpc_server: add(servicer, grpc_server)},
        engine.close,
        engine.readiness,
        http_api=http_api,
    )


async def _transformers(settings: GenerationSettings, tokenizer: Tokenizer) -> Engine:
    options = TransformersOptions(
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
        compiled=settings.compiled,
        seed=settings.seed,
        policy_version=settings.policy_version,
    )
    return await asyncio.to_thread(TransformersEngine, options, tokenizer.decode)


async def _vllm(settings: GenerationSettings, tokenizer: Tokenizer) -> Engine:
    if find_spec("vllm") is None:
        raise ConfigError("engine: vllm is not installed; pip install 'extra-rl[vllm]', or use transformers")
    # Imported late: vLLM takes seconds to import and is not always installed.
    from extra_services.generation.engines.vllm.engine import VllmEngine
    from extra_services.generation.engines.vllm.options import VllmOptions

    return await VllmEngine.start(
        VllmOptions(
            model=settings.model,
            max_batch=settings.max_batch,
            max_prompts=settings.max_prompts,
            max_queue=settings.max_queue,
            max_model_len=settings.max_model_len,
            dtype=settings.dtype,
            kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            data_parallel_size=settings.data_parallel_size,
            compiled=settings.compiled,
            seed=settings.seed,
            policy_version=settings.policy_version,
        ),
        tokenizer.decode,
    )
