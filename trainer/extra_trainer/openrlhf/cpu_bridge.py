"""What OpenRLHF assumes of its machine and this one lacks: every bridge, and why, in one place.

OpenRLHF 0.11.2 is written for CUDA with flash-attn and vLLM installed. `install()` runs before openrlhf is
imported, in the driver and, as Ray's worker_process_setup_hook, in every worker. It stands in for the
modules that are missing, with objects that raise a clear error when a feature that needs them is used; and,
only where torch sees no CUDA device, it bridges the CUDA calls. On a GPU machine with both packages
installed it does nothing at all. Nothing of OpenRLHF is edited or copied.
"""

import functools
import importlib
import importlib.util
import os
import sys
import types
from typing import Any

#: module -> names openrlhf imports from it at import time.
FLASH_ATTN: dict[str, tuple[str, ...]] = {
    "flash_attn": (),
    # models/ring_attn_utils.py imports these, for packing and ring attention.
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}
VLLM: dict[str, tuple[str, ...]] = {
    # trainer/ray/vllm_engine.py and samples_generator.py import these; generation is our service's here.
    "vllm": ("SamplingParams",),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}
#: Names that need no more than torch -> the module that has them.
IN_TORCH = {
    "index_first_axis": "extra_trainer.openrlhf.packing",
    "pad_input": "extra_trainer.openrlhf.packing",
    "unpad_input": "extra_trainer.openrlhf.packing",
    "rearrange": "einops",
}


def install() -> None:
    """Installs what this machine needs; call before importing openrlhf or deepspeed. Idempotent."""
    _stand_in(FLASH_ATTN, "ring attention")
    _stand_in(VLLM, "OpenRLHF's own vLLM engines (--vllm.num_engines above 0)")
    if not _cuda_is_available():
        _bridge_cuda()


def flash_attn_is_there() -> bool:
    """Whether flash-attn is installed, rather than stood in for."""
    spec = importlib.util.find_spec("flash_attn")
    return spec is not None and spec.loader is not None


def _cuda_is_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _stand_in(modules: dict[str, tuple[str, ...]], features: str) -> None:
    package = next(iter(modules))
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    for module_name, names in modules.items():
        module = types.ModuleType(module_name)
        # openrlhf reads vllm.__version__ to choose a code path for engines it then does not start.
        module.__version__ = "0"  # type: ignore[attr-defined]
        module.__path__ = []
        # transformers asks find_spec() about flash_attn: a spec without a loader says "there, not usable".
        module.__spec__ = importlib.util.spec_from_loader(module_name, loader=None)
        for name in names:
            ours = IN_TORCH.get(name)
            stand_in = getattr(importlib.import_module(ours), name) if ours else None
            setattr(module, name, stand_in or _missing(package, name, features))
        sys.modules[module_name] = module


def _missing(package: str, name: str, features: str) -> Any:
    class Missing:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ImportError(
                f"{name} needs the package {package!r}, which is not installed: {features} cannot be used"
            )

    Missing.__name__ = name
    return Missing


def _bridge_cuda() -> None:
    # DeepSpeed probes for accelerators at import; with a CUDA build of torch and no GPU it would guess wrong.
    os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed wraps functions in torch.compile; compiling takes longer than a whole rehearsal.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import torch
    import torch.distributed.device_mesh as device_mesh

    # Functions, not lambdas shared by name: DeepSpeed compares some of them by identity.
    torch.cuda.set_device = lambda device: None
    torch.cuda.synchronize = lambda device=None: None
    # Tensors are moved to torch.cuda.current_device() everywhere.
    torch.cuda.current_device = lambda: _CPU
    # setup_distributed() asks for a mesh on "cuda".
    device_mesh.init_device_mesh = _mesh_on_cpu(device_mesh.init_device_mesh)
    _bridge_deepspeed()


class _CpuDevice(str):
    """Works as the device "cpu", and formats as "0": the replay buffer makes f"cuda:{current_device()}"."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "0"


_CPU = _CpuDevice("cpu")


def _mesh_on_cpu(make: Any) -> Any:
    @functools.wraps(make)
    def init_device_mesh(device_type: str, *args: Any, **options: Any) -> Any:
        return make("cpu" if device_type == "cuda" else device_type, *args, **options)

    return init_device_mesh


def _bridge_deepspeed() -> None:
    import deepspeed

    # Not `import deepspeed.comm.torch as comm`: deepspeed.comm has a name `torch`, which is PyTorch itself.
    comm: Any = importlib.import_module("deepspeed.comm.torch")
    # The shared-memory all-reduce is a C++ extension built on first use, which can hang; gloo does.
    comm.build_shm_op = lambda: None
    initialize = deepspeed.initialize

    @functools.wraps(initialize)
    def with_torch_adam(*args: Any, config: Any = None, **options: Any) -> Any:
        # FusedAdam and CPUAdam are extensions compiled on first use; torch's AdamW is the same update.
        if isinstance(config, dict) and "optimizer" in config:
            parameters = {**config["optimizer"]["params"], "torch_adam": True}
            config = {**config, "optimizer": {**config["optimizer"], "params": parameters}}
        return initialize(*args, config=config, **options)

    deepspeed.initialize = with_torch_adam
