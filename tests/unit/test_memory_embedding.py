"""The embedder: the part of a text that the model reads, and texts that are not embedded again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from extra_rl.vocabulary import TextWindow
from extra_services.errors import FailedPrecondition
from extra_services.memory.embedding import Embedder

#: More word pieces than the model reads (256), and fewer than the reference window (512) has.
OPENING = "the sum of all numbers " * 60


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    made = Embedder("all-MiniLM-L6-v2", batch_size=4)
    yield made
    made.close()


def test_vectors_are_the_models_own(embedder: Embedder) -> None:
    texts = ["short", "a somewhat longer text", "short"]
    expected = embedder._model.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)


def test_texts_seen_before_are_not_embedded_again(embedder: Embedder) -> None:
    texts = ["seen before", "never seen", "seen before"]
    first = embedder.embed(texts)
    before = embedder.embedded
    np.testing.assert_array_equal(embedder.embed(texts), first)
    assert embedder.embedded == before


def test_a_vector_does_not_depend_on_what_is_embedded_with_it() -> None:
    texts = [f"{a}+{b}={a + b}" + "\nand so on" * (a % 4) for a in range(12, 22) for b in (3, 45)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # One whose thread begins now: what was set before a thread began is what it takes.
        embedder = Embedder("all-MiniLM-L6-v2", cached_texts=0)
        together = embedder.embed(texts)
        alone = np.concatenate([embedder.embed([text]) for text in texts])
        embedder.close()
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(together, alone)


ENDINGS = ("a triangle is drawn " * 40, "induction on n proves it " * 40)


def test_the_reference_window_is_the_opening_of_the_last_512_tokens(embedder: Embedder) -> None:
    first, second, late, later = embedder.embed(
        [*(OPENING + ending for ending in ENDINGS), *("x " * 300 + OPENING + ending for ending in ENDINGS)]
    )
    assert float(first @ second) == pytest.approx(1, abs=1e-5)
    assert float(late @ later) > 0.95
    assert float(first @ late) > 0.9


def test_texts_that_differ_only_behind_what_the_model_reads_are_embedded_once(embedder: Embedder) -> None:
    # Longer and longer prefixes of one response, all of fewer than 512 word pieces; words of several pieces.
    opening = "unaffable 1234567 " * 50
    texts = [opening + "and so on " * count for count in range(4)]
    expected = embedder._model.encode(texts, normalize_embeddings=True)
    before = embedder.embedded
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)
    assert embedder.embedded == before + 1


def test_prefixes_of_one_pass_have_about_the_vectors_of_prefixes_alone(embedder: Embedder) -> None:
    steps = [
        f"Step {n}: the {word} of {n} and {3 * n + 1} is {n * (3 * n + 1)}."
        for n, word in enumerate(["sum", "product", "difference", "square"] * 12, start=1)
    ]
    text = "\n".join(steps)
    ends = [len("\n".join(steps[:count])) for count in (2, 5, 11, 20, 30, 40, 48)]
    assert len(embedder._offsets(text)) > 600
    for window in TextWindow:
        alone = embedder.embed([text[:end] for end in ends], window)
        (first, second) = embedder.embed_prefixes([text, "a short one"], [ends, [7, 11]], window)
        similarity = (alone * first).sum(axis=1)
        # What follows a short prefix in its piece is most of what its tokens see.
        assert (similarity > 0.7).all()
        assert (similarity[2:] > 0.95).all()
        # Nothing follows the whole text.
        np.testing.assert_allclose(second[1], embedder.embed(["a short one"], window)[0], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert embedder.embed_prefixes([], []) == []


def test_the_whole_window_sees_the_end_too(embedder: Embedder) -> None:
    first, second = embedder.embed([OPENING + ending for ending in ENDINGS], TextWindow.WHOLE)
    assert float(first @ second) < 0.9
    assert float(first @ first) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        embedder.embed(["short"], TextWindow.WHOLE), embedder.embed(["short"]), atol=1e-6
    )


def test_concurrent_requests_get_their_own_vectors(embedder: Embedder) -> None:
    def own(number: int) -> bool:
        texts = [f"text {number} of {i}, a little long " * (1 + i * 20) for i in range(4)]
        return bool(np.allclose(embedder.embed(texts), alone[number], atol=1e-4))

    alone = [
        embedder.embed([f"text {n} of {i}, a little long " * (1 + i * 20) for i in range(4)])
        for n in range(6)
    ]
    embedder._cache.clear()
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(own, range(6)))


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="neither a sentence-transformers folder"):
        Embedder(str(tmp_path))


def test_the_int8_version_is_another_model_that_sees_alike(embedder: Embedder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the int8 backend needs extra-rl[onnx]")
    texts = [f"Solution {i}: we add {i} and {7 * i}, which gives {8 * i}. " * (1 + i % 5) for i in range(12)]
    exact = embedder.embed(texts)
    ends = [40, 90, len(texts[4])]
    for _ in range(2):  # made, then found
        quantised = Embedder("all-MiniLM-L6-v2", int8_folder=tmp_path, threads=1)
        vectors = quantised.embed(texts)
        (passed,) = quantised.embed_prefixes([texts[4]], [ends])
        prefixes = quantised.embed([texts[4][:end] for end in ends])
        quantised.close()
        assert quantised.name == f"{embedder.name}+int8"
        assert ((vectors * exact).sum(axis=1) > 0.97).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        # Nothing follows the whole text, so that one pass gives its own vector.
        np.testing.assert_allclose(passed[-1], vectors[4], atol=1e-5)
        assert ((passed * prefixes).sum(axis=1) > 0.7).all()
    assert [path.name for path in tmp_path.iterdir()] == [f"{quantised.name}.states.onnx"]
