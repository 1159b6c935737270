"""CPU seconds that novelty and prefixes cost in a training step, without a training: `extra-rl bench replay`.

The recorded rollouts of a run (RUN/rollouts) go through the exploration of a training step as they did there:
solutions are sent ahead as they arrive, one rollout each few milliseconds, groups are scored, hard prompts
feed the prefix memory. The novelty server is a real one, in a process of its own. The result is one JSON
object: by step the CPU seconds of the server and of this process, which does what the trainer does. `means`
leaves out the first step, which warms up. Other work on the machine hardly disturbs CPU seconds.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.processes import used_by
from extra_client import (
    FinishReason,
    NamespaceClient,
    NamespaceSettings,
    NoveltyClient,
    PrefixClient,
    Rollout,
    Timings,
    Verdict,
    VerdictStatus,
    embedded,
)
from extra_rl.rollout_record import RolloutRecord
from extra_rl.tokens import TokenTexts
from extra_rl.vocabulary import Metric, Scale
from extra_trainer.config import NoveltyConfig, PrefixConfig
from extra_trainer.exploration.explorer import Explorer
from extra_trainer.exploration.step_novelty import StepNovelty
from extra_trainer.rehearsal.tokenizer import make_tokenizer
from extra_trainer.rollouts.collector import Group, RolloutRequest
from extra_trainer.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "tests/data/demo_run"


def recorded_groups(records: Sequence[RolloutRecord]) -> list[Group]:
    """Return the groups of a recorded step, in order."""
    ordered = sorted(records, key=lambda record: (record.group, record.sample))
    return [_group(list(some)) for _, some in groupby(ordered, key=lambda record: record.group)]


def _group(records: list[RolloutRecord]) -> Group:
    first = records[0]
    request = RolloutRequest(
        first.prompt,
        first.prompt_id,
        (1,),
        first.answer,
        first.guided,
        tuple(first.token_ids[: first.prefix_tokens].tolist()),
        # What was stored under the ids of that run is not here.
        "",
        float(np.mean(first.entropies)),
    )
    return Group(request, [_rollout(each) for each in records], [_verdict(each) for each in records])


def _rollout(record: RolloutRecord) -> Rollout:
    ids, entropies = record.token_ids[record.prefix_tokens :], record.entropies.astype(np.float32)
    return Rollout(
        prompt_index=record.group,
        sample_index=record.sample,
        token_ids=ids,
        logprobs=-entropies,
        entropies=entropies,
        text=record.text,
        finish_reason=record.finish_reason or FinishReason.STOP,
        policy_version=record.policy_version or 0,
        prompt_tokens=1,
        cached_prompt_tokens=0,
        timings=Timings(0.0, 0.0, 0.0),
        raw_entropies=np.zeros(0, np.float32),
        segments=(),
        policy_changes=(),
    )


def _verdict(record: RolloutRecord) -> Verdict:
    return Verdict(
        record.status or VerdictStatus.ERROR,
        record.unparseable_side,
        record.extracted,
        record.normalized_response,
        record.normalized_answer,
        record.rule,
        record.detail,
        0.0,
        0.0,
        cached=False,
    )


def replay(explorer: Explorer, step: int, groups: list[Group], seconds: float) -> list[Any]:
    """Put the groups of a step through the exploration; a rollout arrives every `seconds`."""
    novelty = StepNovelty(explorer, step, [group.request for group in groups])
    order = np.random.default_rng(step)
    places = [(place, sample) for place, group in enumerate(groups) for sample in range(len(group.rollouts))]
    for place in order.permutation(len(places)):
        group, sample = groups[places[place][0]], places[place][1]
        novelty.prepare(group.request, group.rollouts[sample], group.verdicts[sample])
        time.sleep(seconds)
    for place, group in enumerate(groups):
        novelty.add(place, group)
    scores = novelty.finish(groups)
    explorer.feed(groups, step)
    return scores


def main(arguments: list[str]) -> None:
    """Replay, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench replay", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=DEMO, help="folder of the run")
    parser.add_argument("--passes", type=int, default=1, help="times that its steps are replayed")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="from one rollout to the next")
    parser.add_argument("--metric", type=Metric, choices=list(Metric), default=Metric.EMBEDDING)
    parser.add_argument("--onnx", type=Path, help="folder with the int8 model, if one was made")
    parser.add_argument("--one-pass", action="store_true", help="embed the prefixes of a rollout together")
    parser.add_argument("--scores", type=Path, help="write all novelties into this file")
    parser.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    chosen = parser.parse_args(arguments)
    steps = [recorded_groups(records) for _, records in RunFolder(chosen.run).read_rollouts()]
    used: list[dict[str, float]] = []
    scores: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        if chosen.onnx is not None:
            shutil.copytree(chosen.onnx, Path(folder) / "onnx")
        # As in trainer/configs/rehearsal.yaml.
        settings: dict[str, Any] = {"threads": 1, "embedding_backend": "onnx_int8", "log_level": "error"}
        settings["prefix_embedding"] = "one_pass" if chosen.one_pass else "exact"
        namespace = NamespaceSettings(min_history=1)
        with (
            embedded.start("novelty", data_folder=folder, start_timeout=600, **settings) as server,
            NoveltyClient(server.target, "replay", settings=namespace) as novelty,
            PrefixClient(server.target, "replay") as prefixes,
        ):
            NamespaceClient(server.target, "replay").create(namespace)
            explorer = Explorer(
                NoveltyConfig(metric=chosen.metric, scale=Scale.RUNNING_MEAN),
                PrefixConfig(warmup_steps=0, min_segment_tokens=8),
                novelty,
                prefixes,
                TokenTexts(make_tokenizer()),
                "replay",
            )
            process = psutil.Process(server.process.pid)
            for step, groups in enumerate(steps * chosen.passes, 1):
                before = used_by([process]), time.process_time()
                found = replay(explorer, step, groups, chosen.milliseconds / 1000)
                after = used_by([process]), time.process_time()
                used.append({"novelty": after[0] - before[0], "trainer": after[1] - before[1]})
                scores += [each.raw.tolist() for each in found]
    if chosen.scores is not None:
        chosen.scores.write_text(json.dumps(scores))
    means = {who: statistics.mean(step[who] for step in used[1:]) for who in used[0]}
    rollouts = statistics.mean(sum(len(group.rollouts) for group in step) for step in steps)
    print(json.dumps({"means": means, "rollouts": rollouts, "steps": used}))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
