"""Methods, options, the cache and custom verifiers, through real gRPC."""

import socket
from collections.abc import Iterator

import grpc
import pytest

from extra_rl.v1 import verification_pb2 as pb
from support.verification_server import VerificationServer, own_verifiers, verification_server

CORRECT, WRONG = pb.VERDICT_STATUS_CORRECT, pb.VERDICT_STATUS_WRONG
UNPARSEABLE, TIMEOUT, ERROR = (
    pb.VERDICT_STATUS_UNPARSEABLE,
    pb.VERDICT_STATUS_TIMEOUT,
    pb.VERDICT_STATUS_ERROR,
)

VERIFIERS = """
import os, socket

def same_length(response, answer):
    print("a verifier may print")
    return len(response) == len(answer)

def hangs(response, answer):
    while True:
        pass

def greedy(response, answer):
    return len([bytes(10**8) for _ in range(100)]) == 100

def raises(response, answer):
    raise ValueError("no such thing as " + answer)

def returns_a_number(response, answer):
    return 0.5

def returns_components(response, answer):
    return {"score": 1, "format": 0.25, "length": 3}

def returns_too_much(response, answer):
    return 1.5

def returns_nan(response, answer):
    return float("nan")

def returns_no_score(response, answer):
    return {"format": 1.0}

def dies(response, answer):
    os._exit(3)

def reaches(response, port):
    socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    return True
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerificationServer]:
    folder = tmp_path_factory.mktemp("verification")
    with verification_server(
        folder, own_verifiers(folder, VERIFIERS), workers=2, timeout_seconds=2, worker_memory_bytes=2**29
    ) as running:
        yield running


def _verify(
    server: VerificationServer, response: str, answer: str, method: int = pb.METHOD_MATH, **options: object
) -> pb.Verdict:
    item = pb.VerifyItem(
        response=response,
        answer=answer,
        method=method,  # type: ignore[arg-type]
        options=pb.VerifyOptions(**options),  # type: ignore[arg-type]
    )
    verdict: pb.Verdict = server.stub.Verify(pb.VerifyRequest(items=[item]), timeout=60).verdicts[0]
    return verdict


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        (r"so \boxed{B}", "B", CORRECT),
        (r"\boxed{\textbf{(B)}\ 12}", "B", CORRECT),
        ("The answer is (B).", "(B)", CORRECT),
        ("**Answer: B**", r"\text{(B)}", CORRECT),
        ("Option C is wrong, so (B)", "B", CORRECT),
        ("答案是：B", "B", CORRECT),
        ("The answer is (C).", "B", WRONG),
        ("It depends", "B", UNPARSEABLE),
        (r"\boxed{B}", "12", UNPARSEABLE),
    ],
)
def test_choice_compares_letters(server: VerificationServer, response: str, answer: str, status: int) -> None:
    assert _verify(server, response, answer, pb.METHOD_CHOICE).status == status


@pytest.mark.parametrize(
    ("response", "answer", "status"),
    [
        (r"\boxed{abc}", "abc", CORRECT),
        ("#### **abc**", "abc", CORRECT),
        (r"\boxed{0.50}", "0.5", WRONG),
        (r"\boxed{Abc}", "abc", WRONG),
    ],
)
def test_exact_compares_characters(
    server: VerificationServer, response: str, answer: str, status: int
) -> None:
    assert _verify(server, response, answer, pb.METHOD_EXACT).status == status


@pytest.mark.parametrize(
    ("response", "answer", "tolerances", "status"),
    [
        (r"\boxed{3.14159}", "3.1416", {}, CORRECT),
        (r"\boxed{3.14}", "3.1416", {}, WRONG),
        (r"\boxed{3.14}", "3.1416", {"relative_tolerance": 0.01}, CORRECT),
        (r"\boxed{3.1}", "3.1416", {"absolute_tolerance": 0.05}, CORRECT),
        (r"\boxed{22/7}", r"\pi", {"relative_tolerance": 0.001}, CORRECT),
        (r"\boxed{3.84e35}", "3.83e35", {"relative_tolerance": 0.01}, CORRECT),
        (r"\boxed{1,234.5 km}", "1234.5", {}, CORRECT),
        (r"\boxed{2}", "2.0000001", {"relative_tolerance": 0.0}, WRONG),
        (r"\boxed{x+1}", "3", {}, UNPARSEABLE),
        (r"\boxed{3}", "x", {}, UNPARSEABLE),
    ],
)
def test_numeric_allows_a_tolerance(
    server: VerificationServer, response: str, answer: str, tolerances: dict[str, float], status: int
) -> None:
    assert _verify(server, response, answer, pb.METHOD_NUMERIC, **tolerances).status == status


@pytest.mark.parametrize(
    ("response", "answer", "rule"),
    [(r"\boxed{(B)}", "B", "choice"), (r"\boxed{1/2}", "0.5", "number"), (r"\boxed{x}", "x", "string")],
)
def test_auto_takes_a_letter_for_a_choice_and_the_rest_for_mathematics(
    server: VerificationServer, response: str, answer: str, rule: str
) -> None:
    verdict = _verify(server, response, answer, pb.METHOD_AUTO)
    assert (verdict.status, verdict.rule) == (CORRECT, rule)


@pytest.mark.parametrize(
    ("boxes", "answer"),
    [
        (pb.BOX_CHOICE_UNSPECIFIED, "3"),
        (pb.BOX_CHOICE_LAST, "3"),
        (pb.BOX_CHOICE_FIRST, "1"),
        (pb.BOX_CHOICE_ALL, "3, 1, 2"),
    ],
)
def test_which_of_several_boxes_counts_is_an_option(
    server: VerificationServer, boxes: int, answer: str
) -> None:
    response = r"\boxed{1}, \boxed{2}, again \boxed{1}, and \boxed{3}"
    assert _verify(server, response, answer, boxes=boxes).status == CORRECT


def test_options_out_of_range_are_refused(server: VerificationServer) -> None:
    for options in ({"boxes": 9}, {"relative_tolerance": -1.0}, {"absolute_tolerance": float("nan")}):
        with pytest.raises(grpc.RpcError, match=r"items\[0\]\.options"):
            _verify(server, r"\boxed{1}", "1", pb.METHOD_NUMERIC, **options)


def test_an_equal_question_is_answered_from_memory(server: VerificationServer) -> None:
    first = _verify(server, r"First \boxed{\sin^2 x}", r"1-\cos^2 x")
    again = _verify(server, r"Other words, same answer: \boxed{\sin^2 x}", r"1-\cos^2 x")
    strict = _verify(server, r"\boxed{\sin^2 x}", r"1-\cos^2 x", strict_percent=True)
    assert (first.status, again.status) == (CORRECT, CORRECT)
    assert (first.cached, again.cached, strict.cached) == (False, True, False)


def test_a_custom_verifier_decides_on_the_whole_response(server: VerificationServer) -> None:
    assert _verify(server, "four", "5678", pb.METHOD_CUSTOM, verifier="same_length").status == CORRECT
    verdict = _verify(server, "three", "5678", pb.METHOD_CUSTOM, verifier="same_length")
    assert (verdict.status, verdict.rule) == (WRONG, "custom:same_length")


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("hangs", TIMEOUT, "undecided after"),
        ("greedy", ERROR, "MemoryError"),
        ("raises", ERROR, "ValueError: no such thing as 1"),
        ("returns_too_much", ERROR, "returned 1.5"),
        ("returns_nan", ERROR, "not a finite number"),
        ("returns_no_score", ERROR, "without 'score'"),
        ("dies", ERROR, "exit code 3"),
    ],
)
def test_a_verifier_that_misbehaves_is_an_error_of_its_item_alone(
    server: VerificationServer, name: str, status: int, detail: str
) -> None:
    verdict = _verify(server, "x", "1", pb.METHOD_CUSTOM, verifier=name)
    assert verdict.status == status
    assert detail in verdict.detail
    assert server.verify((r"\boxed{x+1}", "1+x"))[0].status == CORRECT


def test_a_custom_verifier_may_return_a_score_and_components(server: VerificationServer) -> None:
    half = _verify(server, "x", "1", pb.METHOD_CUSTOM, verifier="returns_a_number")
    assert (half.status, half.score, dict(half.components)) == (WRONG, 0.5, {})
    whole = _verify(server, "x", "1", pb.METHOD_CUSTOM, verifier="returns_components")
    assert (whole.status, whole.score) == (CORRECT, 1.0)
    assert dict(whole.components) == {"format": 0.25, "length": 3.0}


def test_workers_cannot_reach_the_network(server: VerificationServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        verdict = _verify(server, "x", port, pb.METHOD_CUSTOM, verifier="reaches")
    if verdict.status == CORRECT:
        pytest.skip("this system does not let processes give up the network")
    assert "unreachable" in verdict.detail or "refused" in verdict.detail


def test_an_unknown_verifier_is_refused_with_the_names_of_those_there_are(
    server: VerificationServer,
) -> None:
    with pytest.raises(grpc.RpcError, match="same_length") as refused:
        _verify(server, "x", "1", pb.METHOD_CUSTOM, verifier="same_lenght")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
