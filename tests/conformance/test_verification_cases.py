"""Labelled answers of the kinds that graders trip over: nothing wrong is paid for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extra_client import VerificationClient, VerifyOptions
from extra_rl.vocabulary import BoxChoice
from support.verification_server import patient_client

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = ("verification_cases.jsonl", "verification_families.jsonl")
#: Share of the right answers that may be refused.
REFUSED = 0.03
SECONDS = 60.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationClient]:
    with patient_client(tmp_path_factory.mktemp("server"), SECONDS) as client:
        yield client


@pytest.fixture(scope="module", params=FILES)
def statuses(request: pytest.FixtureRequest, client: VerificationClient) -> list[tuple[dict[str, Any], str]]:
    """Each case that is no matter of convention, with the status of its verdict."""
    lines = (DATA / request.param).read_text("utf-8").splitlines()
    cases = [case for case in map(json.loads, lines) if not case["convention"]]
    found: dict[str, str] = {}
    for method, boxes in {_conventions(case) for case in cases}:
        some = [case for case in cases if _conventions(case) == (method, boxes)]
        verdicts = client.verify(
            [case["response"] for case in some],
            [case["answer"] for case in some],
            method=method,
            options=VerifyOptions(boxes=BoxChoice(boxes)),
            timeout_seconds=SECONDS,
        )
        found |= {case["id"]: str(each.status) for case, each in zip(some, verdicts, strict=True)}
    return [(case, found[case["id"]]) for case in cases]


def _conventions(case: dict[str, Any]) -> tuple[str, str]:
    return case["method"], case.get("options", {}).get("boxes", "last")


def test_nothing_wrong_is_paid_for(statuses: list[tuple[dict[str, Any], str]]) -> None:
    paid = [case["id"] for case, status in statuses if status == "correct" != case["expected"]]
    assert paid == []


def test_nearly_all_that_is_right_is_accepted(
    statuses: list[tuple[dict[str, Any], str]],
) -> None:
    refused = [case["id"] for case, status in statuses if case["expected"] == "correct" != status]
    assert len(refused) <= REFUSED * len(statuses), refused
