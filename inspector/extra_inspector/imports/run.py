"""Writes what an importer reads as a run folder, and asks the services for verdicts and entropies."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from extra_client import GenerationClient, Verdict, VerificationClient
from extra_client.integrations import prompt_id
from extra_inspector.imports import openrlhf, slime, trl, verl
from extra_inspector.imports.foreign import ForeignRollout, valid_text
from extra_rl.config_file import ConfigError
from extra_rl.references import Answer, is_missing
from extra_rl.tokens import TokenTexts
from extra_rl.vocabulary import Method
from extra_trainer.runs.folder import RunFolder, write_whole
from extra_trainer.runs.schema import RolloutRecord, pack_array

#: Identity of the prompts of logs that do not hold them.
UNKNOWN_PROMPT = "not-recorded"


class Importer(Protocol):
    """Reads the logs of one trainer; each of the modules here is one."""

    def files(self, source: Path) -> list[Path]:
        """Return the logs in a file or folder, none if it has none."""

    def read(self, path: Path) -> Iterator[ForeignRollout]:
        """Yield the rollouts of one log."""


#: The trainers by name.
IMPORTERS: Mapping[str, Importer] = {"trl": trl, "verl": verl, "openrlhf": openrlhf, "slime": slime}


@dataclass(frozen=True)
class Services:
    """The services that add to what a log holds; None: they are not asked."""

    verification: VerificationClient | None = None
    method: Method = Method.MATH
    generation: GenerationClient | None = None
    #: Tokenizer of the model, for logs without token ids.
    tokenizer: Any = None


def format_of(source: Path, name: str | None) -> str:
    """Return the name of the trainer whose logs are in `source`.

    Args:
        source: A file or folder.
        name: The trainer that the user names, None to find it out.

    Raises:
        ConfigError: There are no such logs, or those of several trainers.
    """
    found = [name] if name else [each for each in IMPORTERS if IMPORTERS[each].files(source)]
    if len(found) > 1 and "openrlhf" in found:
        # TensorBoard's files lie beside the logs of many trainers.
        found.remove("openrlhf")
    if len(found) > 1:
        raise ConfigError(f"{source} holds logs of {' and '.join(found)}: choose with --format")
    if not found:
        raise ConfigError(
            f"{source} holds no run (there is no config.yaml in it), and no logs of {', '.join(IMPORTERS)}"
        )
    if not IMPORTERS[found[0]].files(source):
        raise ConfigError(f"{source} holds no logs of {found[0]}: docs/inspect.md names the files")
    return found[0]


class ImportedRun:
    """The logs of another trainer, and the run folder that is made of them."""

    def __init__(self, source: Path, name: str, cache: Path, services: Services) -> None:
        self._source = source.resolve()
        self._importer = IMPORTERS[name]
        self._services = services
        digest = hashlib.sha256(f"{name} {self._source}".encode()).hexdigest()[:16]
        self.folder = RunFolder(cache / "imported" / digest / self._source.name)
        self._state = self.folder.path / "sources.json"
        self._prompts = self.folder.path / "prompts.json"
        self.folder.path.mkdir(parents=True, exist_ok=True)
        config = {"name": self._source.name, "imported": name, "novelty": {"enabled": False}}
        write_whole(self.folder.config, yaml.safe_dump(config))
        if services.tokenizer is not None:
            self.folder.write_vocabulary(TokenTexts(services.tokenizer).pieces)

    @property
    def scores(self) -> bool:
        """Whether entropies can be computed."""
        return self._services.generation is not None

    def update(self) -> bool:
        """Import the logs that are new or changed; return whether there were any.

        Raises:
            ConfigError: A log cannot be read.
            ExtraError: The verification service failed.
        """
        known = _json(self._state)
        asked = str(self._services.method) if self._services.verification else ""
        asked += " tokens" if self._services.tokenizer is not None else ""
        changed = False
        for path in self._importer.files(self._source):
            stat = path.stat()
            signature = [stat.st_mtime_ns, stat.st_size, asked]
            if known.get(str(path)) != signature:
                self._import(path)
                known[str(path)] = signature
                write_whole(self._state, json.dumps(known))
                changed = True
        return changed

    def _import(self, path: Path) -> None:
        steps: dict[int, list[ForeignRollout]] = defaultdict(list)
        for rollout in self._importer.read(path):
            steps[rollout.step].append(rollout)
        sent = _json(self._prompts)
        for step, rollouts in steps.items():
            records = self._verified(list(self._records(rollouts)))
            self.folder.write_rollouts(step, records)
            sent |= {
                record.prompt_id: rollout.sent
                for record, rollout in zip(records, rollouts, strict=True)
                if rollout.sent is not None
            }
        write_whole(self._prompts, json.dumps(sent))

    def _records(self, rollouts: Sequence[ForeignRollout]) -> Iterator[RolloutRecord]:
        """Yield the records of a step's rollouts; those of a group are numbered in the order of the log."""
        places: dict[str, int] = {}
        samples: dict[int, int] = defaultdict(int)
        for rollout in rollouts:
            identity = prompt_id(rollout.prompt) if rollout.prompt else UNKNOWN_PROMPT
            place = places.setdefault(rollout.group or identity, len(places))
            yield self._record(rollout, identity, place, samples[place])
            samples[place] += 1

    def _record(self, rollout: ForeignRollout, identity: str, place: int, sample: int) -> RolloutRecord:
        ids = np.array(rollout.token_ids, np.int32)
        if not len(ids) and self._services.tokenizer is not None:
            # Not those that were sampled, but those that stand for the same text.
            ids = np.array(
                self._services.tokenizer.encode(valid_text(rollout.text), add_special_tokens=False), np.int32
            )
        return RolloutRecord.unjudged(
            prompt_id=identity,
            prompt=valid_text(rollout.prompt),
            answer=_valid_answer(rollout.answer),
            prefix_tokens=0,
            group=place,
            sample=sample,
            text=valid_text(rollout.text),
            finish_reason=rollout.finish_reason,
            status=rollout.status,
            extracted=valid_text(rollout.extracted),
            rule=rollout.rule,
            policy_version=rollout.policy_version,
            tokens=len(rollout.token_ids) or None,
            mean_entropy=None,
            packed_token_ids=pack_array(ids),
            packed_entropies=pack_array(np.zeros(0, np.float16)),
            logged={valid_text(name): value for name, value in rollout.logged.items()},
        )

    def _verified(self, records: list[RolloutRecord]) -> list[RolloutRecord]:
        """Return the records with the verification service's verdicts, if it is to be asked."""
        client = self._services.verification
        if client is None:
            return records
        items = (
            (place, record.text, record.answer)
            for place, record in enumerate(records)
            if not is_missing(record.answer)
        )
        for place, verdict in client.verify_stream(items, method=self._services.method):
            records[place] = _with_verdict(records[place], verdict)
        return records

    def score(self, step: int, place: int) -> None:
        """Compute the entropies of a group's tokens, and write them into its records.

        Raises:
            ConfigError: The log has no prompt, or no token ids and no tokenizer was given.
            ExtraError: The generation service failed.
        """
        assert self._services.generation is not None
        records = self.folder.read_step(step)
        prompts = _json(self._prompts)
        for number, record in enumerate(records):
            if record.group != place:
                continue
            ids = record.token_ids
            if record.prompt_id not in prompts:
                raise ConfigError("the log does not hold the prompt by itself: its entropies are not known")
            if not len(ids):
                raise ConfigError(
                    f"the log holds no tokens of sample {record.sample} in step {step}: give --tokenizer, the"
                    " folder of the model's tokenizer"
                )
            found = entropies(self._services.generation, prompts[record.prompt_id], ids)
            records[number] = replace(
                record,
                mean_entropy=round(float(found.mean()), 5),
                packed_entropies=pack_array(found.astype(np.float16)),
            )
        self.folder.write_rollouts(step, records)


def entropies(client: GenerationClient, prompt: Any, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the exact entropies of the distributions that a response's tokens come from, in nats.

    The service resumes from every opening of the response and samples one token, whose distribution is that
    of the response's next token. It costs one short sample a token.

    Args:
        client: The generation service; it serves the policy of the run, or another one to compare with.
        prompt: A text, messages, or token ids.
        token_ids: The response [length].

    Returns:
        float32 [length].

    Raises:
        ExtraError: The service failed, or the response does not fit into the model's window.
    """
    most = client.get_info().max_prompts
    found = []
    for start in range(0, len(token_ids), most):
        openings = [token_ids[:end] for end in range(start, min(start + most, len(token_ids)))]
        groups = client.generate([prompt] * len(openings), 1, 1, prefixes=openings, seed=0)
        found += [float(group[0].entropies[0]) for group in groups]
    return np.array(found, np.float32)


def _with_verdict(record: RolloutRecord, verdict: Verdict) -> RolloutRecord:
    return replace(
        record,
        status=verdict.status,
        unparseable_side=verdict.unparseable_side,
        extracted=verdict.extracted,
        rule=verdict.rule,
        detail=verdict.detail[:500],
        normalized_response=verdict.normalized_response,
        normalized_answer=verdict.normalized_answer,
        score=verdict.score,
        components=verdict.components,
    )


def _valid_answer(answer: Answer) -> Answer:
    return valid_text(answer) if isinstance(answer, str) else tuple(valid_text(each) for each in answer)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file() or not os.path.getsize(path):
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
