"""Services restarted (SIGTERM, then started again) under training: no step, rollout or verdict is lost.

The rollouts of an interrupted step equal those of an uninterrupted one, token by token: draws depend on seed
and place, the last weights are delivered again, and only unanswered items are verified again.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from extra_client import VerificationClient
from extra_trainer.rollouts.collector import Collected, RolloutCollector, RolloutRequest, Sampling
from extra_trainer.rollouts.generation_pool import GenerationPool
from support.generation_models import make_model
from support.processes import no_process_survives, wait_for
from support.restarted_services import Restarted, restarted_services
from support.training_runs import metrics_of, output_of, rollouts_of, start, tiny_config, without_durations

#: Seconds to wait for a service, on a busy machine.
PATIENCE = 120.0
#: No call may finish while a server ends: what is under way is cut off.
AT_ONCE = {"drain_seconds": 0}
STEPS = 12


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Restarted]]:
    folder = tmp_path_factory.mktemp("services")
    model = make_model(folder / "start", seed=0)
    make_model(folder / "weights" / "policy", seed=1)
    generation = {"model": model, "weights_root": folder / "weights", "threads": 1, "max_batch": 8}
    verification = {"workers": 1, "slow_workers": 1}
    with restarted_services(
        folder, generation=generation | AT_ONCE, verification=verification | AT_ONCE
    ) as running:
        yield running


def _collect(services: dict[str, Restarted], weights: Path, on_first: list[Restarted]) -> Collected:
    """Rollouts of the delivered weights; `on_first` are restarted, side by side, at the first verdict."""
    requests = [RolloutRequest(f"{n}+{n}=", str(n), (), f"x+{n}") for n in range(24)]
    restarts: list[threading.Thread] = []

    def on_verdict(*_: object) -> None:
        if not restarts:
            restarts.extend(threading.Thread(target=service.restart) for service in on_first)
            for each in restarts:
                each.start()

    with (
        GenerationPool([services["generation"].target], patience=PATIENCE) as generation,
        VerificationClient(services["verification"].target) as verification,
    ):
        generation.deliver(weights, "policy", 7)
        collector = RolloutCollector(generation, verification, patience=PATIENCE)
        collected = collector.collect(requests, Sampling(4, 150, seed=3), 7, on_verdict=on_verdict)
    for each in restarts:
        each.join()
    return collected


@pytest.mark.parametrize("names", [["verification"], ["generation"]], ids=lambda names: names[0])
def test_a_service_restarted_within_a_step_changes_nothing_of_it(
    names: list[str],
    services: dict[str, Restarted],
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = next(tmp_path_factory.getbasetemp().glob("services*")) / "weights"
    whole = _collect(services, weights, [])
    assert "asking again" not in caplog.text
    interrupted = _collect(services, weights, [services[name] for name in names])
    assert "asking again" in caplog.text
    for expected, found in zip(whole.groups, interrupted.groups, strict=True):
        assert [r.token_ids.tolist() for r in found.rollouts] == [
            r.token_ids.tolist() for r in expected.rollouts
        ]
        assert {r.policy_version for r in found.rollouts} == {7}
        assert [v.status for v in found.verdicts] == [v.status for v in expected.verdicts]


@pytest.mark.slow
def test_callers_of_two_replicas_notice_nothing_while_one_after_the_other_is_restarted(
    services: dict[str, Restarted], tmp_path: Path
) -> None:
    with restarted_services(tmp_path, verification={"workers": 1, "slow_workers": 1} | AT_ONCE) as others:
        replicas = [services["verification"], others["verification"]]
        target = "ipv4:" + ",".join(replica.target for replica in replicas)
        stop, answered = threading.Event(), 0

        def ask() -> None:
            nonlocal answered
            while not stop.is_set():
                assert client.verify([rf"\boxed{{x+{answered}}}"], [f"{answered}+x"])[0].correct
                answered += 1

        # As long as it takes gRPC to see that the first is back before the second goes.
        with VerificationClient(target, patience=PATIENCE) as client, ThreadPoolExecutor(1) as thread:
            asking = thread.submit(ask)
            for replica in replicas:
                had = answered
                replica.restart()
                wait_for(lambda: answered > had or asking.done(), "no answer")  # noqa: B023
            stop.set()
            asking.result()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_goes_through_a_rolling_restart_of_every_service_as_if_there_were_none(
    tiny_model: Path, tmp_path: Path
) -> None:
    quiet, restarted = tmp_path / "quiet", tmp_path / "restarted"
    with no_process_survives() as mark:
        assert "pass@1" in output_of(start(mark, _config(tmp_path / "a", tiny_model, {}), quiet))
    settings: dict[str, dict[str, Any]] = {
        "generation": {"model": tiny_model, "weights_root": tmp_path, "threads": 1},
        "novelty": {"data_folder": tmp_path / "memory", "threads": 1},
        "verification": {"workers": 1},
    }
    with restarted_services(tmp_path / "services", **settings) as services, no_process_survives() as mark:
        training = start(mark, _config(tmp_path / "b", tiny_model, services), restarted)
        for number, service in enumerate([*services.values(), *services.values()], start=1):
            wait_for(lambda: len(metrics_of(restarted)) >= number or training.poll() is not None, "a step")  # noqa: B023
            service.restart()
        during = len(metrics_of(restarted))
        output = output_of(training)
    print(output)
    assert training.returncode == 0, output
    assert during < STEPS, "the last restart came after the end"
    found, expected = metrics_of(restarted), metrics_of(quiet)
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    for one, other in zip(found, expected, strict=True):
        # A server that was restarted has the start model: its rollouts are refused and drawn again.
        one["rollouts_refused"] = 0.0
        # Services that ran before a launch serve the start model as a version of its own, to be evaluated.
        one["policy_version"] -= 1
        assert without_durations(one) == pytest.approx(without_durations(other), rel=1e-4, abs=1e-6)
    for step in range(1, STEPS + 1):
        assert len(rollouts_of(restarted, step)) == len(rollouts_of(quiet, step)) > 0


def _config(folder: Path, model: Path, services: dict[str, Restarted]) -> Path:
    """A run of twelve steps, with the services given."""
    folder.mkdir()
    path = tiny_config(folder, model)
    content = yaml.safe_load(path.read_text())
    content["optimization"]["epochs"] = STEPS * 4 // 12
    for name, service in services.items():
        content["services"][name] = {"target": service.target}
    if services:
        content["services"]["generation"]["weights"] = "stream"
    path.write_text(yaml.safe_dump(content))
    return path
