"""A resumed run: the order of problems, its own data, and checkpoints that a kill leaves whole."""

import json
import random
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import yaml

from extra_rl.config_file import ConfigError
from extra_trainer.config import Config
from extra_trainer.data.problems import Problem, check_copies, record_copies, write_problems
from extra_trainer.launch.launcher import Launcher
from extra_trainer.openrlhf.number_format import recorded
from extra_trainer.reports.arms import changed_settings, what_is_trained
from extra_trainer.runs.folder import RunFolder, mark_checkpoint


@pytest.mark.parametrize("size", [12, 13])
def test_a_run_resumed_at_any_step_takes_the_problems_of_the_uninterrupted_one(size: int) -> None:
    """OpenRLHF's loader and loop, without rollouts: three passes, with and without a rest of a pass."""
    out = _run(
        """
        import sys
        from types import SimpleNamespace as N
        from extra_trainer.openrlhf import replacements
        replacements.install()
        from torchdata.stateful_dataloader import StatefulDataLoader
        from extra_trainer.config import Config
        from extra_trainer.openrlhf.replacements import take_prompts
        from extra_trainer.openrlhf.samples import ExTraSamplesGenerator, PolicyState

        SIZE, BATCH, PASSES = int(sys.argv[1]), 4, 3
        config = Config.model_validate({
            "name": "x", "seed": 5, "model": {"path": "m"}, "data": {"train": "a", "evaluation": "b"},
            "rollout": {"prompts_per_step": BATCH}, "optimization": {"minibatch_prompts": BATCH},
            "prefix": {"regen_batch_size": 0},
        })

        class Reading(ExTraSamplesGenerator):
            def __init__(self, loader, step):
                rollout = N(batch_size=BATCH, n_samples_per_prompt=1)
                self.args = N(
                    rollout=rollout, vllm=N(enable_sleep=False), algo=N(dynamic_filtering_enable=False)
                )
                self.prompts_dataloader = loader
                self._config, self._policy = config, PolicyState(step=step)

            def _generate_vllm(self, dataloader_iter, num_prompts, dynamic_filtering, **_):
                prompts, _, exhausted = take_prompts(dataloader_iter, num_prompts)
                if len(prompts) < num_prompts:
                    return [], 0, True
                return prompts, len(prompts), exhausted

        def steps(state=None, first=0, step=0):
            rows = [(None, str(i), "", None) for i in range(SIZE)]
            loader = StatefulDataLoader(
                rows, batch_size=1, shuffle=True, drop_last=True, collate_fn=lambda rows: tuple(zip(*rows))
            )
            if state:
                loader.load_state_dict(state)
            generator = Reading(loader, step)
            for number in range(first, PASSES):
                while True:
                    found, _, _, exhausted = generator.generate_samples()
                    if not found and exhausted:
                        break
                    generator._policy.step += 1
                    yield found, (loader.state_dict(), number, generator._policy.step)

        whole = list(steps())
        per_pass = config.rollout.steps_per_pass(SIZE)
        assert len(whole) == per_pass * PASSES
        passes = []
        for start in range(0, len(whole), per_pass):
            seen = [prompt for found, _ in whole[start : start + per_pass] for prompt in found]
            assert len(set(seen)) == len(seen) == per_pass * BATCH, seen
            passes.append(seen)
        assert passes[0] != passes[1] != passes[2]
        for cut, (_, state) in enumerate(whole, start=1):
            assert [found for found, _ in steps(*state)] == [found for found, _ in whole[cut:]], cut
        print("equal")
        """,
        str(size),
    )
    assert out.split()[-1] == "equal"


def test_at_no_moment_is_the_newest_checkpoint_unnamed(tmp_path: Path) -> None:
    checkpoints = tmp_path
    mark_checkpoint(checkpoints, "global_step1")
    steps: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            steps.append(int((checkpoints / "latest").read_text().removeprefix("global_step")))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(2, 3000):
        mark_checkpoint(checkpoints, f"global_step{step}")
    done.set()
    reader.join()
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert [path.name for path in checkpoints.iterdir()] == ["latest"]


def test_a_checkpoint_is_named_only_when_all_workers_have_written_it(tmp_path: Path) -> None:
    """DeepSpeed names it itself as soon as the first worker has, by emptying the file first."""
    out = _run(
        """
        import sys
        from pathlib import Path
        from extra_trainer.openrlhf import replacements
        replacements.install()
        from openrlhf.utils.deepspeed import DeepspeedStrategy
        from extra_trainer.openrlhf.strategy import AccumulatingStrategy

        folder = Path(sys.argv[1])
        def save(self, model, save_dir, tag=None, *rest, save_latest=True, **options):
            assert not save_latest and rest == (2,) and options == {"client_state": {"a": 1}}
            (Path(save_dir) / tag).mkdir(parents=True)
            assert not (Path(save_dir) / "latest").exists()
        DeepspeedStrategy.save_ckpt = save
        for first in (False, True):
            AccumulatingStrategy.is_rank_0 = lambda self: first
            strategy = AccumulatingStrategy.__new__(AccumulatingStrategy)
            strategy.save_ckpt(None, str(folder), f"global_step{int(first)}", 2, client_state={"a": 1})
            assert (folder / "latest").exists() == first
        assert (folder / "latest").read_text() == "global_step1"
        print("named")
        """,
        str(tmp_path),
    )
    assert out.split()[-1] == "named"


#: Writes checkpoints as OpenRLHF's workers do, the oldest deleted before the next, until it is killed.
SAVING = """
import itertools, shutil, sys
from pathlib import Path
from extra_trainer.runs.folder import mark_checkpoint

folder = Path(sys.argv[1])
number = lambda tag: int(tag.name.removeprefix("global_step"))
for step in itertools.count(max(map(number, folder.glob("global_step*")), default=0) + 1):
    for old in sorted(folder.glob("global_step*"), key=number)[:-1]:
        shutil.rmtree(old)
    tag = folder / f"global_step{step}"
    tag.mkdir()
    for part in range(4):
        (tag / str(part)).write_bytes(bytes(100_000))
    mark_checkpoint(folder, tag.name)
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (folder.checkpoints / "_actor").mkdir(parents=True)
    chance = random.Random(0)
    for _ in range(6):
        command = [sys.executable, "-c", SAVING, str(folder.checkpoints / "_actor")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saving:
            assert saving.stdout is not None
            written = [int(saving.stdout.readline()) for _ in range(chance.randint(1, 30))]
            saving.kill()
            written += map(int, saving.stdout)
        step = folder.last_checkpoint()
        assert step in (written[-1], written[-1] + 1)
        parts = list((folder.checkpoints / "_actor" / f"global_step{step}").iterdir())
        assert [part.stat().st_size for part in parts] == [100_000] * 4
        folder.forget_after(step)  # as the resumed run does


def test_a_changed_setting_is_refused_by_name_and_where_it_runs_may_change(tmp_path: Path) -> None:
    content = {"name": "x", "model": {"path": "m"}, "data": {"train": "a", "evaluation": "b"}}
    before = Config.model_validate(content)
    folder = RunFolder(tmp_path)
    folder.config.write_text(yaml.safe_dump(recorded(before)))
    changed = content | {"novelty": {"alpha": 0.7}, "seed": 8, "ray": {"nodes": 3}}
    with pytest.raises(ConfigError, match=r" in novelty\.alpha, seed: in a resumed run only "):
        Launcher(Config.model_validate(changed), folder).train(resume=True)
    one = what_is_trained(before.model_dump(mode="json"))
    moved = Config.model_validate(content | {"ray": {"nodes": 3}}).model_dump(mode="json")
    assert changed_settings(one, what_is_trained(moved)) == []


def test_a_run_of_a_release_that_trained_in_bfloat16_is_not_resumed_in_float32(tmp_path: Path) -> None:
    content = {"name": "x", "model": {"path": "m"}, "data": {"train": "a", "evaluation": "b"}}
    folder = RunFolder(tmp_path)
    folder.config.write_text(yaml.safe_dump(Config.model_validate(content).model_dump(mode="json")))
    now = Config.model_validate(content | {"openrlhf": {"ds.param_dtype": "fp32"}})
    with pytest.raises(ConfigError, match=r" in openrlhf\.ds\.param_dtype: in a resumed run only "):
        Launcher(now, folder).train(resume=True)


@pytest.mark.parametrize("content", ["", "global_step", "global_step9"])
def test_a_mark_that_names_no_checkpoint_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    """As DeepSpeed's own way of writing it left it, under an earlier release."""
    folder = RunFolder(tmp_path)
    for step in (2, 4):
        (folder.checkpoints / "_actor" / f"global_step{step}").mkdir(parents=True)
    (folder.checkpoints / "_actor" / "latest").write_text(content)
    with pytest.raises(ConfigError, match=r"latest names no checkpoint.*write global_step2 into it"):
        folder.last_checkpoint()


def test_a_run_whose_own_data_changed_is_refused_and_a_changed_source_is_named(tmp_path: Path) -> None:
    source, folder = tmp_path / "train.jsonl", RunFolder(tmp_path / "run")
    source.write_text("".join(json.dumps({"problem": f"{n}", "answer": "1"}) + "\n" for n in range(3)))
    problems = [Problem(str(n), f"{n}", "1") for n in range(3)]
    write_problems(folder.train_data, problems)
    write_problems(folder.evaluation_data / "set.jsonl", problems[:1])
    assert check_copies(folder.data, [str(source)]) == []  # of an earlier release: nothing is known
    record_copies(folder.data, [str(source), "rehearsal"])
    assert check_copies(folder.data, [str(source), "rehearsal"]) == []
    source.write_text(source.read_text().replace("2", "5"))
    assert check_copies(folder.data, [str(source)]) == [str(source)]
    source.unlink()
    assert check_copies(folder.data, [str(source)]) == []  # the run does not need it
    for path in (folder.train_data, folder.evaluation_data / "set.jsonl"):
        before = path.read_text()
        lines = before.splitlines(keepends=True)
        for changed in ("".join(lines[::-1]) if len(lines) > 1 else "", before + lines[0]):
            path.write_text(changed)
            with pytest.raises(ConfigError, match=f"{path.name} is not as the run wrote it"):
                check_copies(folder.data, [])
        path.write_text(before)


def _run(code: str, argument: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), argument]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout
