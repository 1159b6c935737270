"""A training run from one config: services, evaluation before, OpenRLHF, evaluation after, report.

The launcher prepares the run folder, starts the services and the driver process that runs OpenRLHF, shows
progress from the run's metrics, and stops everything it started in any case, Ctrl-C included. With `resume`
it continues a run from its last checkpoint.
"""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from extra_client import VerificationClient
from extra_rl.config_file import ConfigError
from extra_trainer import config as configs
from extra_trainer.config import Config
from extra_trainer.data import made
from extra_trainer.data import problems as data
from extra_trainer.evaluation.evaluator import Evaluator, weights_identity
from extra_trainer.evaluation.result import Evaluation
from extra_trainer.launch import services
from extra_trainer.openrlhf import number_format
from extra_trainer.openrlhf.run import Run
from extra_trainer.rehearsal.recipes import RECIPES
from extra_trainer.reports import report
from extra_trainer.reports.arms import WHERE, changed_settings, what_is_trained
from extra_trainer.reports.progress import EvaluationProgress, TrainingProgress
from extra_trainer.rollouts.generation_pool import GenerationPool
from extra_trainer.runs.folder import RunFolder, write_whole

if TYPE_CHECKING:
    from extra_trainer.rehearsal.splits import Split

#: Seconds the driver is given to end Ray before it is killed.
STOP_SECONDS = 30.0


class TrainingFailed(RuntimeError):
    """OpenRLHF stopped before the end; the message says why, and how to continue."""


@dataclass
class Launcher:
    """One launch of a run."""

    config: Config
    folder: RunFolder
    console: Console = field(default_factory=Console)
    #: Folder of start models that the project makes, kept between runs.
    cache: Path = Path(".cache/extra-rl")

    def train(self, *, resume: bool = False) -> Path:
        """Train to the end.

        Args:
            resume: Whether to continue the run in the folder from its last checkpoint.

        Returns:
            The path of the report.

        Raises:
            ConfigError: If the folder or the config does not allow the run.
            ExtraError: If a service fails.
            TrainingFailed: If OpenRLHF stops early.
        """
        started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self.folder.held())
            self._open_folder(resume)
            model = self._prepare()
            self.console.print("Starting the generation, novelty and verification services")
            addresses = services.start(self.config, self.folder, model, stack)
            services.wait_for(addresses)
            before = self._evaluate("before", addresses, fresh=not resume)
            self._run_openrlhf(addresses)
            after = self._evaluate("after", addresses, fresh=True)
        page = report.write(self.folder)
        self.console.print(report.summary_table(self.folder, self.config, before, after))
        self.console.print(f"{time.monotonic() - started:.0f} s in all. Run folder: {self.folder.path}")
        self.console.print(f"Report: {page}")
        return page

    def _open_folder(self, resume: bool) -> None:
        there = self.folder.config.is_file()
        if there and not resume:
            raise ConfigError(
                f"{self.folder.path} holds a run already: add --resume to continue it, "
                "or choose another folder with --run"
            )
        if resume and not there:
            raise ConfigError(f"there is no run to resume in {self.folder.path}")
        for path in (self.folder.path, self.folder.logs, self.folder.weights, self.folder.memory):
            path.mkdir(parents=True, exist_ok=True)
        if there:
            self._go_on_with(configs.load(self.folder.config))
        content = number_format.recorded(self.config)
        write_whole(self.folder.config, yaml.safe_dump(content, sort_keys=False))
        self.folder.failure.unlink(missing_ok=True)
        if resume:
            step = self.folder.last_checkpoint()
            self.folder.forget_after(step)
            self.console.print(
                f"Resuming {self.folder.path} from " + (f"step {step}" if step else "the start")
            )

    def _go_on_with(self, run: Config) -> None:
        """Check that the config trains what the run does, in its number format."""
        self.config = number_format.kept(self.config, run)
        before, now = (
            what_is_trained(config.model_dump(mode="json"))
            for config in (number_format.kept(run, run), self.config)
        )
        if changed := changed_settings(before, now):
            raise ConfigError(
                f"the config differs from that of the run in {self.folder.path} in {', '.join(changed)}: "
                f"in a resumed run only {', '.join(WHERE)} may change"
            )

    def _prepare(self) -> Path:
        """Write the run's problems and return the start model's folder."""
        from transformers import AutoTokenizer

        model = self._start_model()
        if not self.folder.start_model.exists():
            self.folder.start_model.symlink_to(model.resolve())
        tokenizer = AutoTokenizer.from_pretrained(model)
        # The training problems are written last: if they are there, all are.
        sets = data.evaluation_sets(self.config.data.evaluation)
        sources = [self.config.data.train, *sets.values()]
        if self.folder.train_data.is_file():
            for source in data.check_copies(self.folder.data, sources):
                self.console.print(
                    f"Warning: {source} has changed since the run began. The run goes on with its own copy.",
                    soft_wrap=True,
                )
        else:
            most = self.config.evaluation.problems
            for name, source in sets.items():
                path = self.folder.evaluation_data / f"{name}.jsonl"
                data.write_problems(path, self._problems(source, "evaluation", most, tokenizer))
            source, most = self.config.data.train, self.config.data.train_problems
            data.write_problems(self.folder.train_data, self._problems(source, "train", most, tokenizer))
            data.record_copies(self.folder.data, sources)
        return model

    def _start_model(self) -> Path:
        if self.config.model.is_made:
            from extra_trainer.rehearsal.start_model import start_model

            return start_model(self.cache, self.config.model.seed, RECIPES[self.config.model.path])
        path = Path(self.config.model.path)
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"model.path: {path} is no folder of a Hugging Face model (no config.json in it)"
            )
        return path

    def _problems(self, source: str, split: "Split", most: int | None, tokenizer: Any) -> list[data.Problem]:
        if made.is_made(source):
            # The same held-out problems for every seed, so that runs can be compared.
            seed = self.config.seed if split == "train" else 0
            return made.make_problems(source, split, most, seed, self.config.data, tokenizer)
        return data.read_problems(source, self.config.data, tokenizer, most)

    def _evaluate(self, when: str, addresses: services.Addresses, *, fresh: bool) -> Evaluation:
        path = self.folder.evaluation(when)
        if path.is_file() and not fresh:
            return Evaluation.load(path)
        sets = self._evaluation_sets()
        settings = self.config.evaluation
        samples = sum(len(problems) for problems in sets.values()) * settings.samples_per_prompt
        trained = self.folder.weights / self.folder.policy_path
        weights = weights_identity(self.folder.start_model if when == "before" else trained)
        given = self.config.services
        patience = given.patience(given.generation)
        with (
            GenerationPool(addresses.generation, self.config.weights_delivery, patience) as generation,
            VerificationClient(
                addresses.verification, patience=given.patience(given.verification) or None
            ) as verification,
            EvaluationProgress(self.console, f"Evaluation {when} training", samples) as shown,
            self._start_model_served(generation) if when == "before" else contextlib.nullcontext(),
        ):
            if when == "after" and patience:
                # It may have been restarted since training ended, with the weights that it started with.
                version = generation.policy_version() + 1
                generation.deliver(self.folder.weights, self.folder.policy_path, version)
            evaluator = Evaluator(
                generation,
                verification,
                settings,
                settings.max_tokens or self.config.rollout.response_max_tokens,
                method=self.config.data.verification_method,
                options=self.config.data.verify_options,
                progress=shown.advance,
            )
            # A journal of other weights is of an earlier launch that trained differently.
            result = evaluator.run(sets, path.with_suffix(".jsonl"), weights=weights, replace=True)
        result.save(path)
        return result

    @contextlib.contextmanager
    def _start_model_served(self, generation: GenerationPool) -> Iterator[None]:
        """Have services that ran before this launch serve the start model.

        They may still have the policy of an earlier run, which would be evaluated in its place.
        """
        if self.config.services.generation.target is None:
            yield
            return
        version = generation.policy_version() + 1
        if self.config.weights_delivery == "stream":
            generation.deliver(self.folder.path, self.folder.start_model.name, version)
            yield
            return
        # The services read below the folder of weights, and no links out of it.
        with tempfile.TemporaryDirectory(prefix="start-", dir=self.folder.weights) as copy:
            for file in self.folder.start_model.iterdir():
                if file.suffix in (".json", ".safetensors"):
                    shutil.copy(file, copy)
            # A service may run as another user.
            Path(copy).chmod(0o755)
            generation.deliver(self.folder.weights, Path(copy).name, version)
            # Kept meanwhile: a service that is restarted gets it again.
            yield

    def _evaluation_sets(self) -> dict[str, list[data.Problem]]:
        # The paper's order of its benchmarks is alphabetical.
        files = sorted(self.folder.evaluation_data.glob("*.jsonl"))
        return {path.stem: data.load_problems(path) for path in files}

    def _run_openrlhf(self, addresses: services.Addresses) -> None:
        run = Run(
            self.config,
            # The workers of a cluster have working directories of their own.
            RunFolder(self.folder.path.absolute()),
            addresses.generation,
            addresses.novelty,
            addresses.verification,
            uuid.uuid4().hex,
        )
        self.console.print(
            f"Request ids of step N begin with {run.launch_id}/step-N", highlight=False, soft_wrap=True
        )
        run_file = self.folder.path / "run.pickle"
        run_file.write_bytes(pickle.dumps(run))
        rollout = self.config.rollout
        with (
            _driver(run_file, self.folder.logs / "trainer.log") as driver,
            TrainingProgress(
                self.console, self._steps(), rollout.prompts_per_step * rollout.samples_per_prompt
            ) as shown,
        ):
            while driver.poll() is None:
                shown.update(self.folder.read_metrics())
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(0.5)
            shown.update(self.folder.read_metrics())
        if driver.returncode != 0:
            raise TrainingFailed(self._why(driver.returncode))

    def _steps(self) -> int:
        problems = sum(1 for _ in self.folder.train_data.open(encoding="utf-8"))
        return self.config.rollout.steps_per_pass(problems) * self.config.optimization.epochs

    def _why(self, code: int) -> str:
        reason = f"the trainer ended with exit code {code}"
        if self.folder.failure.is_file():
            reason = self.folder.failure.read_text(encoding="utf-8").strip()
        done = self.folder.read_metrics()
        checkpoint = self.folder.last_checkpoint()
        go_on = f"step {checkpoint}" if checkpoint else "the start: there is no checkpoint yet"
        return (
            f"training stopped after step {done[-1].step if done else 0}: {reason}\n"
            f"The log is {self.folder.logs / 'trainer.log'}. "
            f"The same command with --resume goes on from {go_on}."
        )


@contextlib.contextmanager
def _driver(run_file: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the driver in a session of its own: Ctrl-C reaches this process, which ends the driver in order."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RAY_DEDUP_LOGS": "0"}
    # Every Ray worker imports torch and OpenRLHF; without bytecode each compiles them again (22 s).
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # ray.address alone decides which cluster is used, not a variable that another job has set.
    environment.pop("RAY_ADDRESS", None)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "extra_trainer.openrlhf.driver", str(run_file)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=environment,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    # Ray's processes are in the driver's session; none may outlive it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
