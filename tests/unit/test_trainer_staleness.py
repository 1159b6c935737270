"""Rollouts ahead of their step: the bound on their age, and what a checkpoint holds of them."""

import heapq
import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extra_client import PolicyChange, VerdictStatus
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.exploration.step_metrics import version_metrics
from extra_trainer.launch.launcher import Launcher
from extra_trainer.openrlhf.flags import openrlhf_flags
from extra_trainer.openrlhf.run import Run
from extra_trainer.rollouts.collector import Group, RolloutRequest
from extra_trainer.rollouts.steps_ahead import BegunStep, StepsAhead
from extra_trainer.runs.folder import RunFolder
from support.processes import PATIENCE
from support.rollouts import made_rollout, made_verdict

LEAST = "name: x\nmodel: {path: m}\ndata: {train: a, evaluation: b}\n"


def _load(tmp_path: Path, rollout: str, **overrides: object) -> configs.Config:
    path = tmp_path / "config.yaml"
    path.write_text(f"{LEAST}rollout: {rollout}\n")
    return configs.load(path, overrides)


@pytest.mark.parametrize(
    ("rollout", "staleness"),
    [
        ("{}", 0),
        ("{overlap_update: false}", 0),
        ("{overlap_update: true}", 1),
        ("{overlap_update: true, max_staleness: 1}", 1),
        ("{overlap_update: null, max_staleness: 3}", 3),
        ("{max_staleness: 4}", 4),
    ],
)
def test_configs_with_overlap_update_are_read(tmp_path: Path, rollout: str, staleness: int) -> None:
    config = _load(tmp_path, rollout)
    assert config.rollout.max_staleness == staleness
    assert "overlap_update" not in config.model_dump()["rollout"]


@pytest.mark.parametrize(
    ("rollout", "named"),
    [
        ("{overlap_update: true, max_staleness: 2}", "max_staleness is 2: remove overlap_update"),
        ("{overlap_update: true, max_staleness: 0}", "overlap_update: true is the older name of"),
        ("{overlap_update: false, max_staleness: 1}", "overlap_update: false is the older name of"),
        ("{overlap_update: 2}", "true or false, not 2"),
        ("{max_staleness: 5}", r"rollout\.max_staleness"),
        ("{max_staleness: -1}", r"rollout\.max_staleness"),
        ("{max_stalenes: 1}", "did you mean 'max_staleness'"),
    ],
)
def test_a_bound_that_cannot_be_meant_is_refused(tmp_path: Path, rollout: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _load(tmp_path, rollout)


def test_a_setting_of_the_command_line_contradicts_the_older_name_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="remove overlap_update"):
        _load(tmp_path, "{overlap_update: true}", **{"rollout.max_staleness": 2})


def test_a_run_of_an_older_release_is_resumed_with_the_config_it_has(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = _load(tmp_path, "{max_staleness: 1}")
    content = config.model_dump(mode="json")
    del content["rollout"]["max_staleness"]
    content["rollout"]["overlap_update"] = True
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="the config differs"):
        Launcher(_load(tmp_path, "{max_staleness: 2}"), RunFolder(run))._open_folder(resume=True)
    Launcher(config, RunFolder(run))._open_folder(resume=True)
    resumed = configs.load(run / "config.yaml")
    # That release recorded no number format, because it knew only this one.
    assert (resumed.rollout.max_staleness, resumed.openrlhf["ds.param_dtype"]) == (1, "bf16")


def test_importance_weights_are_truncated_wherever_rollouts_may_be_older(tmp_path: Path) -> None:
    def flags(rollout: str, **overrides: object) -> dict[str, str]:
        run = Run(_load(tmp_path, rollout, **overrides), RunFolder(tmp_path), ("g",), "n", "v", "id")
        return dict(pairwise(openrlhf_flags(run)))

    name = "--algo.advantage.is_correction_threshold"
    assert name not in flags("{}")
    for staleness in (1, 2, 4):
        given_flags = flags(f"{{max_staleness: {staleness}}}")
        assert given_flags["--algo.advantage.is_correction_level"] == "token"
        assert given_flags["--algo.advantage.is_correction_mode"] == "clip"
        assert given_flags[name] == "2.0"
    own = flags("{max_staleness: 2}", openrlhf={"algo.advantage.is_correction_threshold": 5.0})
    assert own[name] == "5.0"


@dataclass
class Simulation:
    """A trainer and a generation service with a batch of `rows`, in simulated time.

    Samples start in order of their steps as rows become free. An update takes some time, then its weights
    serve: at once, or with a bound of 1 when all begun samples have ended.
    """

    bound: int
    rows: list[float]
    durations: st.DataObject
    now: float = 0.0
    #: (time, version) of each delivery.
    deliveries: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 1)])

    @property
    def version(self) -> int:
        return self.deliveries[-1][1]

    def version_at(self, time: float) -> int:
        return max(version for since, version in self.deliveries if since <= time)

    def _duration(self) -> float:
        return self.durations.draw(st.floats(0.01, 8.0))

    def begin(self, step: int, last: int) -> BegunStep[list[tuple[float, float]], int]:
        if step > last:
            return BegunStep(step, self.version, {"taken": step}, (), None)
        samples = []
        for _ in range(3):
            start = max(self.now, heapq.heappop(self.rows))
            samples.append((start, start + self._duration()))
            heapq.heappush(self.rows, samples[-1][1])
        return BegunStep(step, self.version, {"taken": step}, (step,), samples)

    def train(self, steps: int) -> list[list[int]]:
        """Return the age, in versions, of each step's samples."""
        ahead: StepsAhead[list[tuple[float, float]], int] = StepsAhead(self.bound)
        ages = []
        for step in range(1, steps + 1):
            ahead.fill(step, lambda number: self.begin(number, steps))
            assert len(ahead.begun) <= self.bound + 1
            taken = ahead.take(self.version)
            assert taken.step == step
            assert taken.work is not None
            self.now = max(self.now, *(end for _, end in taken.work))
            ages.append([self.version - self.version_at(start) for start, _ in taken.work])
            if self.bound < 2:
                assert {self.version_at(time) for sample in taken.work for time in sample} == {taken.version}
            self._update(ahead)
            now = {"taken": step + 1}
            dataloader, guided = ahead.position(now.copy, [100])
            # What has begun begins again, before what waits.
            begun = [each.step for each in ahead.begun if each.work is not None]
            assert dataloader == now
            assert guided == [*begun, 100]
        return ages

    def _update(self, ahead: StepsAhead[list[tuple[float, float]], int]) -> None:
        self.now += self._duration()
        if self.bound < 2:
            ends = [end for step in ahead.begun for _, end in step.work or []]
            self.now = max([self.now, *ends])
            # The version changes right after the last token of the old one.
            self.now += 1e-6
        self.deliveries.append((self.now, self.version + 1))


@given(st.integers(0, 4), st.integers(1, 8), st.integers(1, 12), st.data())
def test_no_rollout_is_older_than_the_bound_whatever_takes_how_long(
    bound: int, rows: int, steps: int, durations: st.DataObject
) -> None:
    ages = Simulation(bound, [0.0] * rows, durations).train(steps)
    assert len(ages) == steps
    assert all(0 <= age <= bound for step in ages for age in step)


def test_the_bound_is_used_when_generation_starts_at_once() -> None:
    """The same model, with rows for all: the steps are as old as they may be, but for the first ones."""

    class Even:
        def draw(self, _: Any) -> float:
            return 1.0

    for bound in range(5):
        ages = Simulation(bound, [0.0] * 100, Even()).train(8)  # type: ignore[arg-type]
        assert [max(step) for step in ages] == [min(bound, step) for step in range(8)]


def test_a_step_that_began_with_too_old_a_policy_is_not_taken() -> None:
    ahead: StepsAhead[str, int] = StepsAhead(1)
    ahead.fill(4, lambda step: BegunStep(step, 4, {}, (), "rollouts"))
    assert [each.step for each in ahead.begun] == [4, 5]
    ahead.take(5)
    with pytest.raises(RuntimeError, match=r"step 5 began with policy version 4.*max_staleness is 1"):
        ahead.take(6)


def test_metrics_say_how_far_rollouts_are_behind() -> None:
    request = RolloutRequest("1+1=?", "p", (1,), "2")
    rollouts = [replace(made_rollout(place), policy_version=version) for place, version in enumerate((3, 5))]
    rollouts[0] = replace(rollouts[0], policy_changes=(PolicyChange(1, 4),))
    group = Group(request, rollouts, [made_verdict(VerdictStatus.CORRECT)] * 2)
    assert version_metrics([group], 5) == {
        "policy_version": 3.0,
        "staleness": 1.0,
        "staleness_max": 2.0,
        "weights_changed": 0.5,
    }


def test_a_run_resumed_at_any_step_loses_no_prompt_and_takes_none_twice() -> None:
    """The generator itself with OpenRLHF's loader, over three passes; rollouts are made up.

    Every step queues a guided prompt, which takes a place of a later batch.
    """
    assert json.loads(_run(RESUMING)) == {"0": 9, "1": 9, "2": 9, "4": 9}


#: For several bounds, cuts the run after each step and checks what the resumed one takes.
RESUMING = """
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as N
from extra_trainer.openrlhf import replacements
replacements.install()
from torchdata.stateful_dataloader import StatefulDataLoader
from extra_trainer.config import Config
from extra_trainer.exploration.guided_queue import GuidedQueue
from extra_trainer.exploration.rescues import Rescues
from extra_trainer.openrlhf.samples import DataPosition, ExTraSamplesGenerator, FinishedStep, PolicyState
from extra_trainer.rollouts.collector import Collected, RolloutRequest
from extra_trainer.rollouts.steps_ahead import StepsAhead
from extra_trainer.runs.folder import RunFolder

SIZE, BATCH, PASSES = 14, 4, 3

class Generator(ExTraSamplesGenerator):
    def __init__(self, loader, step, queue):
        rollout = N(batch_size=BATCH, n_samples_per_prompt=1)
        self.args = N(
            rollout=rollout, vllm=N(enable_sleep=False), algo=N(dynamic_filtering_enable=False)
        )
        self.prompts_dataloader = loader
        self._policy = PolicyState(step=step, version=step + 1)
        self._config = Config.model_validate({
            "name": "x", "seed": 5, "model": {"path": "m"}, "data": {"train": "a", "evaluation": "b"},
            "rollout": {"prompts_per_step": BATCH, "max_staleness": BOUND},
            "optimization": {"minibatch_prompts": BATCH}, "prefix": {"regen_batch_size": 1},
        })
        self._background = ThreadPoolExecutor(BOUND + 2)
        self._ahead = StepsAhead(BOUND)
        self._folder = RunFolder
        self._to_feed = self._feeding = None
        self.metrics, self.position = {}, None
        self.waiting = GuidedQueue(100)
        self.waiting.restore(queue)
        self._explorer = N(
            plan=lambda batch: self.waiting.take_places(batch, 1),
            queue=self.waiting, rescues=Rescues(), launch_id="id",
        )
        self._collector = N(collect=self._collect)

    def _request(self, prompt, label):
        return RolloutRequest(prompt, prompt, (1,), label)

    def _begin(self, dataloader_iter, num_prompts, step):
        began = super()._begin(dataloader_iter, num_prompts, step)
        assert began.version == self._policy.version
        return began

    def _collect(self, requests, sampling, version, on_group, on_verdict, *, weights_may_change):
        assert weights_may_change == (BOUND > 1)
        assert (on_group is None) == (BOUND > 0)
        groups = [
            N(request=request, rollouts=[N(policy_version=version, policy_changes=())])
            for request in requests
        ]
        return Collected(groups, 0.0, 0.0, 0.0)

    def _finish(self, collection, collected, step):
        self._check_versions(collected.groups)
        self.ages = {self._policy.version - group.rollouts[0].policy_version for group in collected.groups}
        self._to_feed = FinishedStep(step, collected.groups, [], None)
        return self._to_feed

    def _feed(self, finished):
        own = finished.groups[0].request
        self.waiting.add(RolloutRequest(f"guided {finished.step}", own.prompt_id, (1,), "", guided=True))
        return 1

    def _experiences(self, groups, advantages, generate_kwargs):
        return [group.request.prompt for group in groups]

def steps(position=None, first=0, step=0):
    rows = [(None, str(i), '["1"]', None) for i in range(SIZE)]
    loader = StatefulDataLoader(
        rows, batch_size=1, shuffle=True, drop_last=True, collate_fn=lambda rows: tuple(zip(*rows))
    )
    if position:
        loader.load_state_dict(position.dataloader)
    generator = Generator(loader, step, position.queue if position else [])
    for number in range(first, PASSES):
        while True:
            found, _, _, exhausted = generator.generate_samples()
            if not found and exhausted:
                break
            assert max(generator.ages) <= BOUND
            generator.begin_feeding()
            generator.wait_for_rollouts()
            generator._policy.step += 1
            generator._policy.version += 1
            generator.settle()
            yield found, (generator.position, number, generator._policy.step)

def data(found):
    return [[prompt for prompt in step if not prompt.startswith("guided")] for step in found]

def guided(found):
    return [prompt for step in found for prompt in step if prompt.startswith("guided")]

def whole_passes(found):
    # A guided prompt replaces the last prompt of the data.
    return [step[: BATCH - 1] for step in data(found)]

def check():
    whole = list(steps())
    taken = [found for found, _ in whole]
    assert len(taken) == SIZE // BATCH * PASSES
    for start in range(0, len(taken), SIZE // BATCH):
        seen = sum(data(taken[start : start + SIZE // BATCH]), [])
        assert len(set(seen)) == len(seen), seen
    for cut, (_, state) in enumerate(whole, start=1):
        resumed = taken[:cut] + [found for found, _ in steps(*state)]
        if BOUND == 0:
            assert resumed == taken, cut
        assert whole_passes(resumed) == whole_passes(taken), cut
        # In the order in which they were queued, none lost and none twice.
        assert guided(resumed) == [f"guided {step}" for step in range(1, len(guided(resumed)) + 1)], resumed
        assert len(guided(resumed)) >= len(guided(taken))
    return len(whole)

checked = {}
for BOUND in (0, 1, 2, 4):
    checked[BOUND] = check()
print(json.dumps(checked))
"""


def _run(program: str) -> str:
    """Run a program in a process of its own: OpenRLHF's replacements change the process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]
