"""The generation service's parts without a server: draws, the prefix cache, segments, streams of tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from extra_rl import vllm_entropy
from extra_rl.tokens import LEAST_TEMPERATURE
from extra_services.errors import InvalidInput
from extra_services.generation.engines.transformers.prefix_cache import BLOCK, PrefixCache
from extra_services.generation.engines.transformers.rows import ComputedSequence
from extra_services.generation.engines.transformers.sampling import RowParameters, draw, noise_keys
from extra_services.generation.requests import (
    EngineLimits,
    GenerationRequest,
    SamplingParameters,
    check_request,
)
from extra_services.generation.segments import segments
from extra_services.generation.tensor_stream import FORMATS, TensorStream
from extra_services.generation.weights import Delivery

CPU = torch.device("cpu")


def parameters(rows: list[SamplingParameters], vocabulary: int) -> RowParameters:
    return RowParameters.of(rows, False, vocabulary, CPU)


samplings = st.builds(
    SamplingParameters,
    max_tokens=st.just(1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.2]),
    top_k=st.sampled_from([0, 1, 5]),
    min_p=st.sampled_from([0.0, 0.1]),
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(samplings, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_what_a_row_draws_does_not_depend_on_the_other_rows(
    rows: list[SamplingParameters], seed: int
) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (len(rows), 50)).astype(np.float32))
    keys = torch.from_numpy(np.concatenate([noise_keys(seed, i, 0, 1) for i in range(len(rows))]))
    together = draw(logits, parameters(rows, 50), keys)
    for row, sampling in enumerate(rows):
        one = slice(row, row + 1)
        alone = draw(logits[one], parameters([sampling], 50), keys[one])
        assert together.tied[row] or alone.tokens[0] == together.tokens[row]
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[row])


@settings(deadline=None, max_examples=60)
@given(sampling=samplings, seed=st.integers(0, 2**32))
def test_only_tokens_that_the_filters_leave_are_drawn(sampling: SamplingParameters, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 50).astype(np.float32)
    p = np.exp(logits / (sampling.temperature or 1.0))
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    likely = order[: sampling.top_k or 50]
    keep = [
        token
        for i, token in enumerate(order)
        if token in likely and p[order[:i]].sum() < sampling.top_p + 1e-6
    ]
    keep = [token for token in keep if p[token] >= sampling.min_p * p.max() * (1 - 1e-5)]
    keep = keep[:1] if sampling.temperature == 0 else keep
    keys = torch.from_numpy(noise_keys(seed, 0, 0, 64))
    drawn = draw(torch.from_numpy(logits).expand(64, 50), parameters([sampling] * 64, 50), keys)
    assert set(drawn.tokens.tolist()) <= {int(token) for token in keep}


def test_draws_are_distributed_as_the_model_says_and_samples_are_independent() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])
    count = 40_000
    keys = torch.from_numpy(np.concatenate([noise_keys(7, 0, sample, 2) for sample in range(count // 2)]))
    tokens = draw(
        logits.expand(count, 5), parameters([SamplingParameters(1)] * count, 5), keys
    ).tokens.numpy()
    expected = torch.softmax(logits, -1).numpy()
    chi2 = ((np.bincount(tokens, minlength=5) - count * expected) ** 2 / (count * expected)).sum()
    assert chi2 < 18.5  # 99.9 % of 4 degrees of freedom
    pairs = np.bincount(tokens[::2] * 5 + tokens[1::2], minlength=25)
    joint = np.outer(expected, expected).ravel() * count / 2
    assert ((pairs - joint) ** 2 / joint)[joint > 5].sum() < 50


@settings(deadline=None, max_examples=200)
@given(
    # Not st.floats: torch turns subnormal numbers off.
    temperature=st.floats(-45, 38).map(lambda exponent: float(np.float32(10.0**exponent))) | st.just(0.0),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**32),
)
def test_every_temperature_is_refused_or_gives_numbers(temperature: float, scale: float, seed: int) -> None:
    sampling = SamplingParameters(1, temperature=temperature, top_p=0.9)
    if 0 < temperature < float(np.float32(LEAST_TEMPERATURE)):
        with pytest.raises(InvalidInput, match=r"at least 0\.01"):
            check_request(GenerationRequest([], 1, sampling), 1, EngineLimits(50, 10, 10, 10))
        return
    check_request(GenerationRequest([], 1, sampling), 1, EngineLimits(50, 10, 10, 10))
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (1, 50)).astype(np.float32))
    rows = RowParameters.of([sampling], True, 50, CPU, truncated=True)
    drawn = draw(logits, rows, torch.from_numpy(noise_keys(seed, 0, 0, 1)))
    assert drawn.truncated is not None
    for numbers in (drawn.logprobs, drawn.entropies, drawn.raw_entropies, drawn.truncated):
        assert torch.isfinite(numbers).all()


def test_the_least_temperature_is_allowed_as_float32() -> None:
    for least in (LEAST_TEMPERATURE, float(np.float32(LEAST_TEMPERATURE))):
        sampling = SamplingParameters(1, temperature=least)
        check_request(GenerationRequest([], 1, sampling), 1, EngineLimits(50, 10, 10, 10))


@settings(deadline=None, max_examples=100)
@given(sampling=samplings, seed=st.integers(0, 2**32), banned=st.booleans())
def test_truncated_numbers_are_those_of_the_distribution_that_is_drawn_from(
    sampling: SamplingParameters, seed: int, banned: bool
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 50)
    rows = RowParameters.of([sampling], False, 50, CPU, truncated=True)
    keys = torch.from_numpy(noise_keys(seed, 0, 0, 1))
    drawn = draw(
        torch.from_numpy(logits.astype(np.float32))[None], rows, keys, ([0], [7]) if banned else None
    )
    # In float64, by the definitions: which tokens are left, their mass, and their distribution.
    p = np.exp(logits / (sampling.temperature or 1.0))
    p /= p.sum()
    q = np.where(np.arange(50) == 7, 0.0, p) if banned else p
    order = np.argsort(-q, kind="stable")
    before = np.cumsum(q[order]) - q[order]
    assume(np.abs(before - sampling.top_p).min() > 1e-5)
    assume(np.abs(q - sampling.min_p * q.max())[q < q.max()].min() > 1e-6 or not sampling.min_p)
    left = (before < sampling.top_p) & (np.arange(50) < (sampling.top_k or 50))
    left = order[left & (q[order] >= sampling.min_p * q.max()) & (q[order] > 0)]
    distribution = q[left] / q[left].sum()
    token = int(drawn.tokens[0])
    assert drawn.truncated is not None
    mass, logprob, entropy = drawn.truncated[0].tolist()
    assert mass == pytest.approx(q[left].sum(), abs=1e-5)
    assert logprob == pytest.approx(np.log(q[token] / q[left].sum()), abs=1e-4)
    assert entropy == pytest.approx(-(distribution * np.log(distribution)).sum(), abs=1e-4)
    assert drawn.logprobs[0].item() == pytest.approx(np.log(p[token]), abs=1e-4)


def test_a_draw_that_rounding_could_change_is_tied_at_every_temperature() -> None:
    rng = np.random.default_rng(0)
    keys = torch.from_numpy(rng.integers(-(2**31), 2**31, (50_000, 2)).astype(np.int32))
    for temperature in (0.01, 0.1, 1.0):
        # Candidates that are close at this temperature.
        logits = torch.from_numpy(rng.normal(0, temperature, (len(keys), 8)).astype(np.float32))
        rounded = logits + torch.from_numpy(rng.uniform(-1e-5, 1e-5, logits.shape).astype(np.float32))
        rows = parameters([SamplingParameters(1, temperature=temperature)] * len(logits), 8)
        drawn, other = draw(logits, rows, keys), draw(rounded, rows, keys)
        assert drawn.tied[drawn.tokens != other.tokens].all()
        assert drawn.tied.float().mean() < 0.05


def test_entropies_are_exact_where_probabilities_vanish() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -200.0]])
    drawn = draw(logits, parameters([SamplingParameters(1)], 4), torch.from_numpy(noise_keys(0, 0, 0, 1)))
    assert drawn.entropies.item() == pytest.approx(np.log(2))


def sequence(tokens: list[int]) -> ComputedSequence:
    return ComputedSequence(
        np.array(tokens, np.int32),
        [(torch.zeros(1, len(tokens), 1), torch.zeros(1, len(tokens), 1))],
        torch.zeros(1, 4),
    )


@settings(deadline=None)
@given(
    sequences=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4 * BLOCK), min_size=1, max_size=12),
    limit=st.integers(0, 3000),
)
def test_the_prefix_cache_finds_only_what_is_there_and_stays_within_its_memory(
    sequences: list[list[int]], limit: int
) -> None:
    cache = PrefixCache(limit)
    known: dict[bytes, ComputedSequence] = {}
    for tokens in sequences:
        wanted = np.array(tokens, np.int32)
        start = cache.longest_start(wanted)
        if start is not None:
            found, length = start
            assert 0 < length < len(wanted)
            assert (found.tokens[:length] == wanted[:length]).all()
            assert found is known[found.tokens.tobytes()]
        computed = cache.whole(wanted) or sequence(tokens)
        cache.add(computed)
        known[wanted.tobytes()] = computed
        kept = {id(c): c for c in map(cache.whole, (c.tokens for c in known.values())) if c is not None}
        assert sum(c.bytes for c in kept.values()) <= limit
    if limit == 3000:
        assert cache.whole(wanted) is computed
    cache.clear()
    assert cache.whole(wanted) is None
    assert cache.longest_start(wanted) is None


def test_the_prefix_cache_finds_the_longest_shared_start() -> None:
    cache = PrefixCache(10**6)
    first = list(range(5 * BLOCK))
    cache.add(sequence(first[: 2 * BLOCK]))
    cache.add(sequence([*first[: 4 * BLOCK], 99]))
    found = cache.longest_start(np.array(first, np.int32))
    assert found is not None
    assert found[1] == 4 * BLOCK


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_segments_cover_all_tokens_and_end_at_newlines(tokens: list[int]) -> None:
    entropies = np.linspace(1, 2, len(tokens), dtype=np.float32)
    found = segments(np.array(tokens, np.int32), entropies, np.array([2, 3], np.int32))
    assert [segment.start for segment in found] == [0, *(segment.end for segment in found[:-1])]
    assert found[-1].end == len(tokens)
    for segment in found:
        assert all(token < 2 for token in tokens[segment.start : segment.end - 1])
        assert segment.max == entropies[segment.end - 1]
    assert all(tokens[segment.end - 1] >= 2 for segment in found[:-1])


def test_two_entropies_travel_exactly_in_the_bits_of_one_rank() -> None:
    logits = torch.randn(100, 30, generator=torch.Generator().manual_seed(0)) * 5
    logits[3, 4:] = -torch.inf
    temperature = torch.linspace(0, 2, 100)
    own = vllm_entropy.entropies(vllm_entropy.scaled(logits, temperature).log_softmax(-1))
    raw = vllm_entropy.entropies(vllm_entropy.scaled(logits, None).log_softmax(-1))
    ranks = vllm_entropy.pack(own, raw).tolist()
    assert min(ranks) >= 0
    unpacked = vllm_entropy.unpack(ranks)
    np.testing.assert_array_equal(unpacked, torch.stack([own, raw], -1).numpy())
    assert own[0] == raw[0]  # greedy: those of temperature 1
    expected = torch.distributions.Categorical(logits=logits[4:] / temperature[4:, None]).entropy()
    torch.testing.assert_close(own[4:], expected)
    assert torch.isfinite(own[3])


def test_a_stream_of_tensors_refuses_more_than_it_may_hold_before_it_arrives() -> None:
    stream = TensorStream(100)
    stream.add("a", "F32", (10,), b"\0" * 40)
    with pytest.raises(InvalidInput, match="more bytes than the served model"):
        stream.add("b", "F32", (10**6, 10**6), b"\0")


def test_streamed_tensors_are_those_that_were_sent_also_in_a_folder(tmp_path: Path) -> None:
    sent = {
        "a": torch.randn(3, 5),
        "empty": torch.zeros(0, 4),
        "empty_half": torch.zeros(2, 0, dtype=torch.float16),
        "scalar": torch.tensor(2.0, dtype=torch.bfloat16),
    }
    formats = {tensor: name for name, tensor in FORMATS.items()}
    stream = TensorStream(100)
    for name, tensor in sent.items():
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        for start in range(0, max(1, len(data)), 7):
            stream.add(name, formats[tensor.dtype], tuple(tensor.shape), data[start : start + 7])
    served, copy = tmp_path / "served", tmp_path / "copy"
    served.mkdir()
    copy.mkdir()
    (served / "config.json").write_text("{}")
    delivery = Delivery(served, stream.finish())
    delivery.write(copy)
    assert (copy / "config.json").is_file()
    for found in (delivery.read(), Delivery(copy).read()):
        assert found.keys() == sent.keys()
        for name, tensor in sent.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_stream_that_breaks_off_gives_no_tensors() -> None:
    stream = TensorStream(100)
    stream.add("a", "F32", (2,), b"\0" * 4)
    with pytest.raises(InvalidInput, match="a ended after 4 of 8 bytes"):
        stream.finish()
