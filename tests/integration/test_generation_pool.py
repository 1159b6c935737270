"""Several real generation services in one pool: the same tokens as with one, also when a replica fails."""

import dataclasses
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from extra_client import (
    FailedPreconditionError,
    GenerationClient,
    InFlight,
    PromptError,
    Rollout,
    UnavailableError,
    embedded,
)
from extra_trainer.rollouts.generation_pool import GenerationPool, check_version
from support.rollouts import made_rollout

OPTIONS: dict[str, Any] = {
    "n": 3,
    "max_tokens": 24,
    "seed": 5,
    "temperature": 1.0,
    "top_p": 1.0,
    "min_policy_version": 0,
}


@pytest.fixture(scope="module")
def root(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights root with the folders `start`, the model, and `policy`, with other weights."""
    root = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(0)
    for name, change in (("start", 0.0), ("policy", 0.05)):
        (root / name).mkdir()
        (root / name / "config.json").write_text((tiny_model / "config.json").read_text())
        tensors = {
            key: tensor + change * torch.randn(tensor.shape, generator=generator)
            for key, tensor in load_file(tiny_model / "model.safetensors").items()
        }
        save_file(tensors, root / name / "model.safetensors", {"format": "pt"})
    return root


@pytest.fixture(scope="module")
def replicas(tiny_model: Path, root: Path) -> Iterator[list[embedded.EmbeddedService]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(embedded.start("generation", model=tiny_model, threads=1, weights_root=root))
            for _ in range(2)
        ]


@pytest.fixture
def targets(replicas: list[embedded.EmbeddedService], root: Path) -> list[str]:
    """Return the addresses of two replicas that serve their first model as the same version."""
    found = [replica.target for replica in replicas]
    with GenerationPool(found) as pool:
        pool.deliver(root, "start", pool.policy_version() + 1)
    return found


@pytest.fixture(scope="module")
def prompts(tiny_model: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return [tokenizer(f"{number}+{number + 1}=?\n")["input_ids"] for number in range(10, 22)]


@pytest.fixture(scope="module")
def prefixes(prompts: list[list[int]]) -> list[list[int]]:
    """The third prompt is a guided one."""
    return [prompts[0][:2] if index == 2 else [] for index in range(len(prompts))]


def _tokens(events: Iterator[object]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for event in events:
        assert isinstance(event, Rollout)
        place = (event.prompt_index, event.sample_index)
        assert place not in found, "a sample came twice"
        found[place] = event.token_ids.tolist()
    return found


def _versions(events: list[Rollout | PromptError]) -> set[int]:
    return {event.policy_version for event in events if isinstance(event, Rollout)}


def test_two_replicas_draw_the_tokens_of_one(
    targets: list[str], prompts: list[list[int]], prefixes: list[list[int]]
) -> None:
    with GenerationPool(targets[:1]) as one, GenerationPool(targets) as two:
        expected = _tokens(one.generate_stream(prompts, prefixes=prefixes, **OPTIONS))
        assert len(expected) == len(prompts) * 3
        assert _tokens(two.generate_stream(prompts, prefixes=prefixes, **OPTIONS)) == expected
        assert two.lost == {}


def test_weights_reach_all_replicas_from_a_folder_and_as_a_stream(
    targets: list[str], root: Path, prompts: list[list[int]], prefixes: list[list[int]]
) -> None:
    found = []
    for weights in ("folder", "stream"):
        with GenerationPool(targets, weights) as pool:
            found.append(_tokens(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS)))
            version = pool.policy_version() + 1
            assert pool.deliver(root, "policy", version).policy_version == version
            options = {**OPTIONS, "min_policy_version": version}
            events = list(pool.generate_stream(prompts, prefixes=prefixes, **options))
            assert _versions(events) == {version}
            found.append(_tokens(iter(events)))
            pool.deliver(root, "start", version + 1)
    assert found[0] != found[1]
    assert found[:2] == found[2:]


def test_refused_weights_are_named_with_what_to_do_and_the_old_ones_serve_on(
    targets: list[str], root: Path, prompts: list[list[int]], prefixes: list[list[int]]
) -> None:
    with GenerationPool(targets) as pool:
        before = _tokens(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS))
        version = pool.policy_version()
        (root / "compiled").mkdir()
        (root / "compiled" / "config.json").write_text((root / "start" / "config.json").read_text())
        tensors = load_file(root / "start" / "model.safetensors")
        tensors = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
        save_file(tensors, root / "compiled" / "model.safetensors", {"format": "pt"})
        with pytest.raises(FailedPreconditionError) as refused:
            pool.deliver(root, "compiled", version + 1)
        for said in (f"version {version + 1}", str(root / "compiled"), "_orig_mod.", "unwrap", "--resume"):
            assert said in str(refused.value)
        assert pool.policy_version() == version
        assert _tokens(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS)) == before


def test_a_stream_that_is_dropped_stops_and_leaves_the_pool_whole(
    targets: list[str], prompts: list[list[int]], prefixes: list[list[int]]
) -> None:
    with GenerationPool(targets) as pool:
        events = pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS)
        next(events)
        events.close()
        assert pool.lost == {}
        assert len(_tokens(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS))) == len(prompts) * 3


def test_a_replica_with_older_weights_than_asked_for_serves_nothing(
    targets: list[str], root: Path, prompts: list[list[int]], prefixes: list[list[int]]
) -> None:
    with GenerationPool(targets) as pool, GenerationPool(targets[:1]) as first:
        new = pool.policy_version() + 1
        first.deliver(root, "policy", new)
        options = {**OPTIONS, "min_policy_version": new}
        events = list(pool.generate_stream(prompts, prefixes=prefixes, **options))
        assert _versions(events) == {new}
        assert list(pool.lost) == targets[1:]
        assert f"policy version {new - 1} is served" in pool.lost[targets[1]]
        assert pool.refused > 0
        with pytest.raises(FailedPreconditionError, match=f"version {new} is served, older than {new + 1}"):
            list(
                pool.generate_stream(prompts, prefixes=prefixes, **{**options, "min_policy_version": new + 1})
            )


@pytest.mark.parametrize("count", [1, 2])
def test_weights_delivered_under_keep_reach_the_samples_of_a_call_in_progress(
    targets: list[str], root: Path, prompts: list[list[int]], prefixes: list[list[int]], count: int
) -> None:
    with GenerationPool(targets[:count]) as pool:
        old = pool.policy_version()
        # Far more than the replicas' batches hold: some wait when the weights change, on a fast machine too.
        options = {**OPTIONS, "n": 400, "min_policy_version": old}
        events = pool.generate_stream(prompts, prefixes=prefixes, **options)
        found = [next(events)]
        pool.deliver(root, "policy", old + 1, InFlight.KEEP)
        found += events
        assert len(_tokens(iter(found))) == len(prompts) * 400
        assert _versions(found) == {old, old + 1}
        changes = [event.policy_changes for event in found if isinstance(event, Rollout)]
        assert {change.policy_version for each in changes for change in each} <= {old + 1}
        assert (pool.refused, pool.lost) == (0, {})


def test_a_rollout_of_older_weights_than_asked_for_is_refused() -> None:
    """Servers of others may send one, which the check before a call does not see."""
    rollout = dataclasses.replace(made_rollout(0), policy_version=3)
    check_version(rollout, 3)
    with pytest.raises(FailedPreconditionError, match="policy version 3, older than 4"):
        check_version(rollout, 4)


def test_the_groups_of_a_replica_that_dies_go_to_the_others_and_it_serves_again_once_it_is_back(
    targets: list[str],
    root: Path,
    tiny_model: Path,
    prompts: list[list[int]],
    prefixes: list[list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = f"unix:{tmp_path / 'socket'}"
    settings: dict[str, Any] = {"model": tiny_model, "threads": 1, "host": host, "weights_root": root}
    with ExitStack() as stack:
        mortal = stack.enter_context(embedded.start("generation", **settings))
        pool = stack.enter_context(GenerationPool([mortal.target, targets[0]]))
        one = stack.enter_context(GenerationPool(targets[1:]))
        # Stopped, it takes groups and finishes none.
        mortal.process.send_signal(signal.SIGSTOP)
        events = pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS)
        first = next(events)
        mortal.process.kill()
        with caplog.at_level(logging.WARNING):
            found = _tokens(iter([first, *events]))
        assert found == _tokens(one.generate_stream(prompts, prefixes=prefixes, **OPTIONS))
        assert pool.serving == targets[:1]
        assert f"{mortal.target} is passed over, 1 of 2 replicas serve" in caplog.text

        # The others take new weights without it.
        version = pool.policy_version() + 1
        assert pool.deliver(root, "policy", version).policy_version == version
        assert pool.serving == targets[:1]
        mortal.process.wait()
        Path(tmp_path / "socket").unlink(missing_ok=True)
        stack.enter_context(embedded.start("generation", **settings))
        pool.wait_for_ready()
        pool.deliver(root, "policy", version + 1)
        assert pool.lost == {}
        with GenerationClient(mortal.target) as client:
            assert client.get_info().policy_version == version + 1


def test_with_all_replicas_dead_the_error_says_that_no_service_answers(
    replicas: list[embedded.EmbeddedService],
    targets: list[str],
    prompts: list[list[int]],
    prefixes: list[list[int]],
) -> None:
    # The last of this module: the replicas are its own.
    with GenerationPool(targets) as pool:
        for replica in replicas:
            replica.process.kill()
        with pytest.raises(UnavailableError, match="generation service"):
            list(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS))
        assert pool.serving == []
        with pytest.raises(UnavailableError, match="no generation service is left"):
            list(pool.generate_stream(prompts, prefixes=prefixes, **OPTIONS))
