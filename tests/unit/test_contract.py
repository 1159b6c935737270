"""The contract of both sides: enums, numbers on the wire, and the definitions of kinds of groups."""

import math
from enum import StrEnum
from inspect import getmembers, isclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_rl import vocabulary, wire
from extra_rl.groups import GroupOutcome, is_decided
from extra_rl.vocabulary import DEFAULTS, Metric, UnparseableSide, VerdictStatus

ENUMS = [
    kind for _, kind in getmembers(vocabulary, isclass) if issubclass(kind, StrEnum) and kind is not StrEnum
]


@pytest.mark.parametrize("kind", ENUMS)
def test_an_enum_has_the_members_of_its_proto_and_every_number_comes_back(kind: type[StrEnum]) -> None:
    numbers = {wire.number(member) for member in kind}

    assert numbers == {value.number for value in wire.descriptor(kind).values} - {0}
    assert [wire.member(kind, wire.number(member)) for member in kind] == list(kind)
    assert [member.value for member in kind] == [member.name.lower() for member in kind]


def test_every_enum_of_the_protos_is_in_the_vocabulary() -> None:
    known = {wire.descriptor(kind).full_name for kind in ENUMS}

    assert {
        enum.full_name for file in wire._FILES for enum in file.DESCRIPTOR.enum_types_by_name.values()
    } <= known


@pytest.mark.parametrize("kind", ENUMS)
def test_the_unspecified_number_is_the_default_or_nothing(kind: type[StrEnum]) -> None:
    assert wire.member(kind, 0) is None
    if kind in DEFAULTS:
        assert wire.requested(kind, 0) is DEFAULTS[kind]


def test_a_number_of_a_later_release_is_refused() -> None:
    with pytest.raises(ValueError, match="99 is no Metric that this release knows"):
        wire.member(Metric, 99)


@given(st.lists(st.integers(-(2**31), 2**31 - 1)), st.lists(st.floats(width=32, allow_nan=False)))
def test_arrays_come_back_as_they_were_sent(ids: list[int], values: list[float]) -> None:
    assert wire.ints(wire.int_bytes(ids)).tolist() == ids
    assert wire.floats(wire.float_bytes(values)).tolist() == values


@pytest.mark.parametrize("values", [[[1]], [0.5], [2**31], np.zeros((2, 2), int)])
def test_what_is_no_list_of_int32_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"must be a flat list|outside the range"):
        wire.int_bytes(values)  # type: ignore[arg-type]


def test_half_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes"):
        wire.floats(b"12345")


def test_an_unreadable_reference_answer_decides_nothing_about_the_response() -> None:
    assert not is_decided(VerdictStatus.UNPARSEABLE, UnparseableSide.ANSWER)
    assert is_decided(VerdictStatus.UNPARSEABLE, UnparseableSide.RESPONSE)
    assert not is_decided(VerdictStatus.TIMEOUT, None)
    assert not is_decided(VerdictStatus.ERROR, None)


@given(st.lists(st.sampled_from([True, False, None])))
def test_a_group_with_a_decided_rollout_is_exactly_one_of_right_wrong_and_mixed(
    correct: list[bool | None],
) -> None:
    group = GroupOutcome.of(correct)

    assert group.all_right + group.all_wrong + group.mixed == bool(group.decided)
    assert math.isnan(group.pass_rate) == (not group.decided)
    if group.all_wrong:
        assert group.hard


def test_undecided_rollouts_count_for_nothing() -> None:
    assert GroupOutcome.of([True, None, True]).all_right
    assert GroupOutcome.of([False, None]).all_wrong
    assert not GroupOutcome.of([None, None]).hard
    # One in two decided ones of eight: more than 1/8.
    assert not GroupOutcome.of([True, False, *[None] * 6]).hard
    assert GroupOutcome.of([True, *[False] * 7]).hard
