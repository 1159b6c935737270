"""Scores and components of verdicts reach the metrics of a step and its records."""

import json

import numpy as np

from extra_client import Verdict, VerdictStatus
from extra_trainer.exploration.advantage import StepAdvantages
from extra_trainer.exploration.recording import rollout_records
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.exploration.step_metrics import step_metrics
from extra_trainer.rollouts.collector import Group, RolloutRequest
from extra_trainer.runs.schema import RolloutRecord
from support.rollouts import made_rollout


def _verdict(score: float | None, rule: str = "custom:style", **components: float) -> Verdict:
    status = VerdictStatus.CORRECT if score == 1 else VerdictStatus.WRONG
    return Verdict(status, None, "", "", "", rule, "", 0.0, 0.0, False, score, components)


def _step(*verdicts: Verdict) -> tuple[list[Group], list[GroupNovelty]]:
    zeros = np.zeros(len(verdicts))
    request = RolloutRequest("p", "id", (1,), ("1", "2"))
    group = Group(request, [made_rollout(sample) for sample in range(len(verdicts))], list(verdicts))
    return [group], [GroupNovelty(zeros, zeros, 0.0)]


def test_the_metrics_of_a_step_have_means_of_scores_and_components() -> None:
    verdicts = [
        _verdict(1.0, length=3.0),
        _verdict(0.5, length=5.0, tone=-1.0),
        _verdict(None, rule="integer"),
    ]
    metrics = step_metrics(*_step(*verdicts))
    assert {name: metrics[name] for name in metrics if name.startswith("score")} == {
        "score": 0.75,
        "score/length": 4.0,
        "score/tone": -1.0,
    }
    assert metrics["reward"] == 1 / 3


def test_components_of_programs_are_tests_and_no_metrics() -> None:
    metrics = step_metrics(*_step(_verdict(0.5, rule="code", test_0=1.0, test_1=0.0)))
    assert [name for name in metrics if name.startswith("score")] == ["score"]


def test_a_step_without_scores_has_no_such_metric() -> None:
    assert not [name for name in step_metrics(*_step(_verdict(None))) if name.startswith("score")]


def test_records_keep_scores_components_and_all_reference_answers() -> None:
    groups, novelty = _step(_verdict(0.5, length=5.0), _verdict(None))
    records = rollout_records(groups, novelty, StepAdvantages.zeros(groups))
    read = [RolloutRecord.from_json(json.loads(json.dumps(record.to_json()))) for record in records]
    assert [(record.score, dict(record.components)) for record in read] == [
        (0.5, {"length": 5.0}),
        (None, {}),
    ]
    assert {record.answer for record in read} == {("1", "2")}
    assert "score" not in records[1].to_json()
