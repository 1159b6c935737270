"""Faults of delivered weights: each is refused by the name of the tensor or file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from extra_services.errors import FailedPrecondition
from extra_services.generation import weights
from extra_services.generation.engines.transformers.model_runner import ModelRunner
from support.generation_models import make_model

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
Tensors = dict[str, torch.Tensor]


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def inside(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name.replace("layers.1.", f"layers.1.{part}."): tensor for name, tensor in tensors.items()
    }


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {other: tensor for other, tensor in tensors.items() if other != name}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: change(tensors[name])}


#: The fault, whether the served model's head is tied to its embedding, and what the error says.
FAULTS: dict[str, tuple[Callable[[Tensors], Tensors], bool, str]] = {
    "compiled": (prefixed("_orig_mod."), True, r"_orig_mod\.\S+: .*torch\.compile; unwrap"),
    "one layer compiled": (inside("_orig_mod"), True, r"layers\.1\._orig_mod\.\S+: .*torch\.compile"),
    "data parallel": (prefixed("module."), False, r"module\.\S+: .*DistributedDataParallel"),
    "sharded": (prefixed("_fsdp_wrapped_module."), True, "FSDP"),
    "adapter": (prefixed("base_model.model."), True, "PEFT"),
    "a missing tensor": (without(NORM), True, r"missing keys: model\.norm\.weight"),
    "no head": (without(HEAD), False, r"missing keys: lm_head\.weight"),
    "no embedding": (without(EMBEDDING), False, r"missing keys: model\.embed_tokens\.weight"),
    "an extra tensor": (
        lambda tensors: {**tensors, "model.extra.weight": torch.zeros(3)},
        True,
        r"unexpected keys: model\.extra\.weight",
    ),
    "another shape": (
        changed(NORM, lambda tensor: tensor[:-1]),
        True,
        r"mismatched keys: model\.norm\.weight \(\[47\] instead of \[48\]\)",
    ),
    "a smaller vocabulary": (
        changed(EMBEDDING, lambda tensor: tensor[:-1]),
        False,
        r"mismatched keys: model\.embed_tokens\.weight",
    ),
    "integers": (changed(NORM, lambda tensor: tensor.to(torch.int8)), True, r"model\.norm\.weight is I8"),
    "a head unlike its embedding": (
        lambda tensors: {**tensors, HEAD: tensors[EMBEDDING] + 1},
        True,
        r"lm_head\.weight, which differs from model\.embed_tokens\.weight",
    ),
}


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[ModelRunner, Path]]:
    """Runners of a model with a tied and an untied head, and their folders."""
    folders = {tied: tmp_path_factory.mktemp("model") for tied in (True, False)}
    return {
        tied: (ModelRunner(make_model(folder, tie_word_embeddings=tied), None, "cpu", False), folder)
        for tied, folder in folders.items()
    }


def deliver(folder: Path, served: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Write the served tensors to `folder`, changed."""
    folder.mkdir()
    (folder / "config.json").write_text((served / "config.json").read_text())
    tensors = change(load_file(served / "model.safetensors"))
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tensor_is_refused_by_name(
    runners: dict[bool, tuple[ModelRunner, Path]], tmp_path: Path, fault: str
) -> None:
    change, tied, message = FAULTS[fault]
    runner, served = runners[tied]
    with pytest.raises(FailedPrecondition, match=message):
        runner.load_weights(weights.Delivery(deliver(tmp_path / "delivered", served, change)))
    if fault == "integers":
        return  # They do not enter a stream.
    tensors = change(load_file(served / "model.safetensors"))
    with pytest.raises(FailedPrecondition, match=f"the stream .*{message}"):
        runner.load_weights(weights.Delivery(served, tensors))


@pytest.mark.parametrize("cut", [5, 100, 1000])
def test_a_shard_that_ends_early_is_refused_by_its_name(
    runners: dict[bool, tuple[ModelRunner, Path]], tmp_path: Path, cut: int
) -> None:
    runner, served = runners[True]
    folder = shards(deliver(tmp_path / "delivered", served, dict))
    runner.load_weights(weights.Delivery(folder))
    second = folder / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    for part in (whole[:-cut], whole[:cut]):
        second.write_bytes(part)
        with pytest.raises(FailedPrecondition, match=r"model-00002-of-00002\.safetensors ends early"):
            runner.load_weights(weights.Delivery(folder))
    second.unlink()
    with pytest.raises(FailedPrecondition, match=r"model-00002-of-00002\.safetensors"):
        runner.load_weights(weights.Delivery(folder))


def test_a_file_of_an_earlier_save_beside_the_shards_is_refused(
    runners: dict[bool, tuple[ModelRunner, Path]], tmp_path: Path
) -> None:
    runner, served = runners[True]
    folder = shards(deliver(tmp_path / "delivered", served, dict))
    (folder / "model.safetensors").write_bytes((served / "model.safetensors").read_bytes())
    with pytest.raises(FailedPrecondition, match="is in two files of delivered"):
        runner.load_weights(weights.Delivery(folder))


def test_a_tied_head_may_be_saved_beside_its_embedding_or_alone(
    runners: dict[bool, tuple[ModelRunner, Path]], tmp_path: Path
) -> None:
    runner, served = runners[True]
    beside = deliver(tmp_path / "beside", served, lambda t: {**t, HEAD: t[EMBEDDING]})
    alone = deliver(tmp_path / "alone", served, lambda t: {**without(EMBEDDING)(t), HEAD: t[EMBEDDING]})
    for folder in (beside, alone):
        assert runner.replace_weights(runner.load_weights(weights.Delivery(folder))) < 1e-3


def test_a_model_may_be_served_from_a_folder_with_other_files_of_tensors(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    save_file({"tok_embeddings.weight": torch.zeros(3)}, folder / "consolidated.safetensors")
    ModelRunner(folder, None, "cpu", False)


def test_loaded_tensors_are_not_those_of_the_file(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    # Copied, since load_file maps the file.
    before = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    model = weights.load(weights.Delivery(folder), torch.float32, torch.device("cpu"))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4 * before[NORM].numel(), 2)
        file.write(b"\xff" * 4 * before[NORM].numel())
    loaded = weights.tensors_of(model)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items() if name in loaded)


def shards(folder: Path) -> Path:
    """Split the model in `folder` into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    content = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder
