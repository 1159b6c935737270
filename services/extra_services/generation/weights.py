"""Delivered models, as folders or tensors: load them, compare them with the served one, score the probe.

Pickled weights are never read, since unpickling runs code. A folder that a caller names must lie under the
configured root with everything in it, also after links are resolved.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

from extra_services.errors import FailedPrecondition, InvalidInput
from extra_services.generation.engines.transformers.rows import ATTENTION

#: Nats by which an engine of this number format may differ from a plain forward pass of the same weights.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
#: Tokens of the fixed text on which engine and plain forward pass are compared.
PROBE_LENGTH = 48

#: Entries of the config on which the model's function depends, besides the shapes of its tensors.
COMPARED = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class Delivery:
    """Weights that a caller delivered: those of a model folder, or tensors that arrived without one."""

    #: It has config.json, which for tensors is that of the served model.
    folder: Path
    #: By name; None: those in the folder's safetensors files.
    tensors: dict[str, torch.Tensor] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.folder.name if self.tensors is None else "the stream"

    def read(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, in memory of their own."""
        return _read(self.folder) if self.tensors is None else self.tensors

    def write(self, folder: Path) -> None:
        """Write config.json and safetensors into `folder`."""
        shutil.copy(self.folder / "config.json", folder)
        if self.tensors is not None:
            save_file(self.tensors, folder / "model.safetensors", {"format": "pt"})
            return
        for file in self.folder.glob("*.safetensors"):
            shutil.copy(file, folder)


def resolve(root: Path | None, path: str) -> Path:
    """Return the model folder `path` under `root`.

    Raises:
        FailedPrecondition: There is no root.
        InvalidInput: The folder lies outside the root, has links to the outside, or holds no whole model.
    """
    if root is None:
        raise FailedPrecondition(
            "this server has no weights_root, so its weights cannot be replaced from a folder"
        )
    if "\0" in path:
        raise InvalidInput("path", "must not hold a NUL character")
    root = root.resolve()
    folder = _resolved(root / path)
    if folder is None or not folder.is_relative_to(root) or folder == root:
        raise InvalidInput("path", f"{path!r} is not a folder inside the server's weights root")
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        raise InvalidInput("path", f"there is no folder {path!r} in the server's weights root")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise InvalidInput("path", f"{path!r} holds no model: config.json and *.safetensors are needed")
    if (folder / "adapter_config.json").exists():
        raise InvalidInput("path", f"{path!r} holds an adapter; merge it and save the whole model")
    for file in folder.rglob("*"):
        target = _resolved(file)
        if target is None or not target.is_relative_to(root):
            raise InvalidInput("path", f"{path!r} has a link out of the server's weights root: {file.name}")
    _check_shards(folder, path)
    return folder


def _resolved(path: Path) -> Path | None:
    """Return `path` without links; None if it cannot be resolved (circular links, names too long)."""
    try:
        return path.resolve(strict=path.is_symlink())
    except (OSError, RuntimeError):
        return None


def _check_shards(folder: Path, path: str) -> None:
    # The index of a sharded model names the files to read, and could name any file.
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            elsewhere = [name for name in names if Path(name).name != name]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput("path", f"{path!r}: {index.name} is no index of a sharded model") from error
        if elsewhere:
            raise InvalidInput("path", f"{path!r}: {index.name} names files outside the folder")


def load(delivery: Delivery, dtype: torch.dtype | None, device: torch.device) -> torch.nn.Module:
    """Load a causal language model, to run with `rows.attention`.

    Args:
        delivery: The model.
        dtype: None keeps the saved one.
        device: Its device.

    Raises:
        FailedPrecondition: Tensors are missing, unknown or of the wrong shape, or they cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(delivery.folder, local_files_only=True, trust_remote_code=False)
        kind = _causal_lm(config)
        if kind.config_class is type(config.get_text_config()):
            config = config.get_text_config()  # of a model with images: only its text part is served
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=delivery.read(),
            dtype=dtype or "auto",
            attn_implementation=ATTENTION,
            output_loading_info=True,
            # Reported below, by name; otherwise the error names no tensor.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a bad folder
        raise FailedPrecondition(f"{delivery.name} cannot be loaded: {error}") from error
    problems = [f"{what.replace('_', ' ')}: {_some(report[what])}" for what in _REPORTED if report[what]]
    if problems:
        raise FailedPrecondition(f"{delivery.name} does not hold this model; " + "; ".join(problems))
    _check_tied(delivery.name, model)
    loaded: torch.nn.Module = model.eval().requires_grad_(False).to(device)
    return loaded


def _causal_lm(config: Any) -> Any:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} is no causal language model that transformers knows")
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _read(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the model in `folder`, read once into memory of their own.

    transformers itself would read whole files and copy each tensor out of them, or map the files; and a later
    change of a mapped file would change the served weights.
    """
    tensors = {}
    for path in _files(folder):
        with safe_open(path, "pt", backend="pread") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensors[name] = file.get_tensor(name)
    return tensors


def _files(folder: Path) -> list[Path]:
    """Return the files that transformers would read: one, or those that the index names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole]
    return sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})


_REPORTED = ("missing_keys", "unexpected_keys", "mismatched_keys")


def _some(names: Any) -> str:
    listed = sorted(name if isinstance(name, str) else _mismatch(*name) for name in names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _mismatch(name: str, delivered: Any, expected: Any) -> str:
    return f"{name} ({list(delivered)} instead of {list(expected)})"


def _check_tied(delivered: str, model: Any) -> None:
    """Refuse a head that differs from its tied embedding; transformers would untie them without an error."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not model.config.get_text_config().tie_word_embeddings or head is None:
        return
    if head.weight is not embedding.weight:
        names = {id(each): name for name, each in model.named_parameters()}
        raise FailedPrecondition(
            f"{delivered} holds {names[id(head.weight)]}, which differs from "
            f"{names[id(embedding.weight)]} although config.json ties them (tie_word_embeddings); save only"
            " the embedding, or start the service with an untied model"
        )


#: Modules that a training loop wraps around a model, whose names must not be saved.
WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_model": "PEFT",
}
#: As safetensors names them; integers would be parts of a quantized model.
FLOATS = {"F64", "F32", "F16", "BF16"}


def check_tensors(delivery: Delivery) -> None:
    """Look for what loading would not name: in a folder through the headers of its safetensors files.

    Raises:
        FailedPrecondition: A file ends early or is damaged, a tensor is in two files or no float, or names
            are those of a wrapped model.
    """
    if delivery.tensors is not None:
        for name in delivery.tensors:
            _check_name(name, delivery.name)
        return
    folder = delivery.folder
    files: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                formats = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors has no class of errors that is public
            text = f"{folder.name}/{path.name} ends early or is damaged; deliver it once the save has ended"
            raise FailedPrecondition(f"{text}: {error}") from error
        for name, dtype in formats.items():
            _check_name(name, f"{folder.name}/{path.name}")
            if name in files:
                where = f"{files[name]} and {path.name}"
                raise FailedPrecondition(
                    f"{name} is in two files of {folder.name}, {where}; delete the older"
                )
            if dtype not in FLOATS:
                raise FailedPrecondition(
                    f"{folder.name}/{path.name}: {name} is {dtype}, not one of {', '.join(sorted(FLOATS))}; "
                    "save the model without quantization"
                )
            files[name] = path.name


def _check_name(name: str, where: str) -> None:
    wrapper = next((part for part in name.split(".") if part in WRAPPERS), None)
    if wrapper is not None:
        raise FailedPrecondition(
            f"{where} holds {name}: {wrapper!r} is the wrapper of {WRAPPERS[wrapper]}; unwrap the model "
            "before it is saved or sent"
        )


def check_same_model(delivery: Delivery, served: Any) -> None:
    """Compare a delivery's config.json with the config `served`, and look through its tensors.

    Raises:
        FailedPrecondition: It describes another model, or `check_tensors` found a fault.
    """
    check_tensors(delivery)
    try:
        delivered = AutoConfig.from_pretrained(
            delivery.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise FailedPrecondition(f"{delivery.folder.name}/config.json cannot be read: {error}") from error
    for name in COMPARED:
        ours, theirs = getattr(served, name, None), getattr(delivered, name, None)
        if ours != theirs:
            raise FailedPrecondition(f"{delivery.name} is another model: its {name} is {theirs}, not {ours}")


def probe_tokens(vocab_size: int, length: int) -> torch.Tensor:
    """Return int64 [length]: the fixed token ids on which weights are probed."""
    return torch.from_numpy(np.random.Generator(np.random.Philox(20624994)).integers(vocab_size, size=length))


@torch.inference_mode()  # type: ignore[untyped-decorator]
def plain_logprobs(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return float32 [length - 1]: log-probability of each later token, by one pass without a cache."""
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(-1, tokens[1:, None])[:, 0]


def move_into(served: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace the parameters and buffers of `served` by `tensors`, by name, and return the old ones."""
    before = tensors_of(served)
    for name, own in (*served.named_parameters(), *served.named_buffers()):
        own.data = tensors[name]
    return before


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name, without a copy."""
    return {name: own.data for name, own in (*model.named_parameters(), *model.named_buffers())}


def eos_token_ids(folder: Path, config: Any) -> list[int]:
    """Return the ids that end a sample: those of generation_config.json in `folder`, else of `config`."""
    found = config.eos_token_id
    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id or found
    if found is None:
        return []
    return [found] if isinstance(found, int) else list(found)


def parameter_count(folder: Path) -> int:
    """Count the numbers in the safetensors files of `folder`, from their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
