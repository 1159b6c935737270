"""Random strings as responses and reference answers: each gets a verdict, and no worker dies."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extra_rl.vocabulary import BoxChoice, Method, VerdictStatus
from extra_services.verification.pool import WorkerPool
from extra_services.verification.verdict import ComparisonOptions, VerificationItem
from extra_services.verification.verifier import Verifier

LIMIT = 0.5
STRINGS_PER_EXAMPLE = 50

_COMMANDS = r"""\boxed{ \frac{ \frac \sqrt \left( \right) \pi \infty \sin \log \text{ \cup \in \pm ^\circ
\sum_{n=1}^ \int_0^1 \begin{pmatrix} \end{pmatrix} \\ \% ** 1 2 12,345 0.5 1e5 x y n e i and 答案是 个"""
_PIECES = st.sampled_from(
    [*"{}()[]$^_+-*/=<,;:.!|%& \n\x00\ud800\U0001f600", "#### ", "The answer is ", "A: ", *_COMMANDS.split()]
)
_STRINGS = st.one_of(st.text(max_size=80), st.lists(_PIECES, max_size=14).map("".join))
_ITEMS = st.builds(
    VerificationItem,
    response=_STRINGS,
    answer=_STRINGS.filter(lambda text: bool(text.strip())),
    method=st.sampled_from([method for method in Method if method not in (Method.CUSTOM, Method.CODE)]),
    options=st.builds(ComparisonOptions, boxes=st.sampled_from(BoxChoice), strict_percent=st.booleans()),
)
_BATCHES = st.lists(_ITEMS, min_size=STRINGS_PER_EXAMPLE // 2, max_size=STRINGS_PER_EXAMPLE // 2)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    pool = WorkerPool(workers=2, slow_workers=2, memory_bytes=2**29, max_queue=1000)
    pool.start()
    yield Verifier(pool, timeout_seconds=LIMIT, cache_size=100)
    pool.close()


def _check(verifier: Verifier, items: list[VerificationItem]) -> None:
    with verifier.call() as call:
        decided = [verifier.decide(item.response, [item.answer], item.method, item.options) for item in items]
        pending = [part for entry in decided for part in entry.pending]
        finished = iter(
            [
                verifier.finish(part, future.result(60), LIMIT)
                for part, future in zip(pending, call.submit(pending, LIMIT), strict=True)
            ]
        )
        verdicts = [entry.verdict(finished) for entry in decided]
    for verdict in verdicts:
        assert verdict.rule != "worker", verdict.detail
        assert verdict.status is not VerdictStatus.ERROR, verdict.detail


_quietly = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True
)


@settings(_quietly, max_examples=20)
@given(items=_BATCHES)
def test_a_thousand_random_strings_get_verdicts(verifier: Verifier, items: list[VerificationItem]) -> None:
    _check(verifier, items)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(_quietly, max_examples=10_000 // STRINGS_PER_EXAMPLE)
@given(items=_BATCHES)
def test_ten_thousand_random_strings_get_verdicts(verifier: Verifier, items: list[VerificationItem]) -> None:
    _check(verifier, items)
