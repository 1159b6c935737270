"""Stand-ins for flash-attn and vLLM, which OpenRLHF imports whether or not they are used.

Where a package is missing, its modules are replaced by empty ones with the imported names. A name that
needs no more than torch gets a working function; any other raises an ImportError that names the package
when it is used. Installed packages are left alone.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

#: Module -> names that openrlhf/models/ring_attn_utils.py imports, for packing and ring attention.
FLASH_ATTN: dict[str, tuple[str, ...]] = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}
#: Module -> names that openrlhf's vllm_engine.py and samples_generator.py import. Our service generates.
VLLM: dict[str, tuple[str, ...]] = {
    "vllm": ("SamplingParams",),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}
#: Name that needs no more than torch -> module with the function.
WORKING = {
    "index_first_axis": "extra_trainer.openrlhf.unpadding",
    "pad_input": "extra_trainer.openrlhf.unpadding",
    "unpad_input": "extra_trainer.openrlhf.unpadding",
    "rearrange": "einops",
}


def stand_in_for_missing() -> None:
    """Put stand-ins for flash-attn and vLLM into sys.modules where they are not installed; idempotent."""
    stand_in(FLASH_ATTN, "ring attention")
    stand_in(VLLM, "OpenRLHF's own vLLM engines (--vllm.num_engines above 0)")


def stand_in(modules: dict[str, tuple[str, ...]], features: str) -> None:
    """Put stand-ins for one package into sys.modules, unless it is installed.

    Args:
        modules: Module -> imported names; the package itself comes first.
        features: The features that need the package, for the error message.
    """
    package = next(iter(modules))
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    for module_name, names in modules.items():
        module = types.ModuleType(module_name)
        # openrlhf reads vllm.__version__ to choose a code path for engines that it then does not start.
        module.__version__ = "0"  # type: ignore[attr-defined]
        module.__path__ = []
        # transformers calls find_spec("flash_attn"): a spec without a loader means "present, not usable".
        module.__spec__ = importlib.util.spec_from_loader(module_name, loader=None)
        for name in names:
            working = WORKING.get(name)
            function = getattr(importlib.import_module(working), name) if working else None
            setattr(module, name, function or _unusable(package, name, features))
        sys.modules[module_name] = module


def flash_attn_is_installed() -> bool:
    """Return whether flash-attn itself is installed, not a stand-in."""
    spec = importlib.util.find_spec("flash_attn")
    return spec is not None and spec.loader is not None


def _unusable(package: str, name: str, features: str) -> Any:
    class Unusable:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ImportError(
                f"{name} needs the package {package!r}, which is not installed: {features} cannot be used"
            )

    Unusable.__name__ = name
    return Unusable
