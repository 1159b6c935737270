"""Run the model of the transformers engine: prompts side by side, steps of the batch, the probe of weights.

A `ModelRunner` knows the model and no request. Only the engine's thread may call it, except `load_weights`,
which touches nothing that is served.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extra_services.errors import FailedPrecondition
from extra_services.generation import weights
from extra_services.generation.engines.transformers.rows import ComputedSequence, Layer, Prefill, Rows
from extra_services.generation.rollouts import PromptScores
from extra_services.generation.weights import Delivery

#: Most padded tokens of prompts computed at once, so that a long queue of prompts does not stall the batch.
PREFILL_TOKENS = 4096
#: Most logits computed at once: 256 MiB of them.
PREFILL_LOGITS = 2**26
#: Tokens of the probe that delivered weights compute step by step. Each step reads all weights, so half of
#: the probe (as at the start, where attention itself is checked) takes several times as long as loading them.
PROBE_STEPS = 4


@dataclass(frozen=True)
class LoadedWeights:
    """Delivered weights, beside those that are served."""

    tensors: dict[str, torch.Tensor]
    #: float32 [probe length - 1]: log-probabilities of the probe by a plain forward pass.
    reference: torch.Tensor


class ModelRunner:
    """The model in a folder.

    Args:
        folder: The model.
        dtype: None: float32 on the CPU, the saved one elsewhere.
        device: None: cuda where there is one, else cpu.
        compiled: Whether torch.compile is used for steps.

    Raises:
        FailedPrecondition: The folder does not hold a model that this engine can run.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None, device: str | None, compiled: bool) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        wanted = dtype or (torch.float32 if self.device.type == "cpu" else None)
        self._model: Any = weights.load(Delivery(folder), wanted, self.device)
        # For steps only: prompts have too many shapes. Both share the module whose weights are replaced.
        self._compiled: Any = torch.compile(self._model, dynamic=True) if compiled else self._model
        self.dtype: torch.dtype = next(self._model.parameters()).dtype
        self.config: Any = self._model.config
        self.vocab_size: int = self.config.vocab_size
        self.parameter_count = sum(parameter.numel() for parameter in self._model.parameters())
        self._any_mask = torch.zeros(1, 1, 1, 1, device=self.device)
        length = min(weights.PROBE_LENGTH, self.config.max_position_embeddings)
        #: int64 [length]: the tokens on which weights are probed.
        self.probe = weights.probe_tokens(self.vocab_size, length).to(self.device)
        #: Bytes of the keys and values of one token.
        self.kv_bytes_per_token = self._check_attention()

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor | None, kv: Prefill | Rows, keep: int | torch.Tensor
    ) -> torch.Tensor:
        """Run the model once.

        Args:
            ids: int64 [rows, length].
            positions: int64 [rows, length]; None: from 0.
            kv: Computes the attention, and stores keys and values.
            keep: Number of last positions, or the positions, whose logits are returned; 0: all.

        Returns:
            Logits float32 [rows, kept positions, vocabulary].
        """
        # A mask of four dimensions is passed on unchanged; `rows.attention` makes its own.
        model = self._compiled if isinstance(kv, Rows) else self._model
        out = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._any_mask,
            use_cache=False,
            logits_to_keep=keep,
            kv=kv,
        )
        logits: torch.Tensor = out.logits.float()
        return logits

    def prefill(self, sequences: list[NDArray[np.int32]]) -> list[ComputedSequence]:
        """Compute sequences int32 [length], as many side by side as memory and padding allow."""
        computed: dict[int, ComputedSequence] = {}
        batch: list[int] = []
        by_length = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        for index in by_length:
            longer = len(batch) + 1
            ends = {len(sequences[other]) for other in (*batch, index)}
            logits = longer * len(ends) * self.vocab_size
            if batch and (longer * len(sequences[index]) > PREFILL_TOKENS or logits > PREFILL_LOGITS):
                computed.update(zip(batch, self._side_by_side([sequences[i] for i in batch]), strict=True))
                batch = []
            batch.append(index)
        computed.update(zip(batch, self._side_by_side([sequences[i] for i in batch]), strict=True))
        return [computed[index] for index in range(len(sequences))]

    def continue_sequence(
        self, tokens: NDArray[np.int32], known: ComputedSequence, length: int
    ) -> ComputedSequence:
        """Compute `tokens`, whose first `length` are also the first of `known`."""
        prefill = Prefill([(key[:, :length], value[:, :length]) for key, value in known.layers])
        ids = torch.from_numpy(tokens[length:]).to(self.device, torch.int64)[None]
        positions = torch.arange(length, len(tokens), device=self.device)[None]
        logits = self.forward(ids, positions, prefill, 1)
        return prefill.sequence(0, tokens, logits[:, 0])

    def score(self, tokens: NDArray[np.int32]) -> tuple[ComputedSequence, PromptScores]:
        """Compute a sequence int32 [length] alone, with the log-probabilities of its tokens.

        Alone, so that they do not depend on what else is computed; in parts, so that the logits fit.
        """
        ids = torch.from_numpy(tokens).to(self.device, torch.int64)
        size = max(1, PREFILL_LOGITS // self.vocab_size)
        past: list[Layer] | None = None
        columns = []
        for start in range(0, len(tokens), size):
            part, prefill = ids[start : start + size], Prefill(past)
            positions = torch.arange(start, start + len(part), device=self.device)
            logits = self.forward(part[None], positions[None], prefill, 0)[0]
            past = [(key[0], value[0]) for key, value in prefill.layers]
            following = ids[start + 1 : start + 1 + len(part)]
            logprobs = torch.log_softmax(logits[: len(following)], -1)
            best, likeliest = logprobs.max(-1)
            columns.append((logprobs.gather(-1, following[:, None])[:, 0], likeliest, best))
        own, likeliest, best = (torch.cat(column).cpu().numpy() for column in zip(*columns, strict=True))
        scores = PromptScores(own, likeliest.astype(np.int32), best)
        return prefill.sequence(0, tokens, logits[-1:]), scores

    def load_weights(self, delivery: Delivery) -> LoadedWeights:
        """Load delivered weights of the served model, and score the probe with them; thread-safe.

        Raises:
            FailedPrecondition: They are of another model, or not all of this one.
        """
        weights.check_same_model(delivery, self.config)
        model = weights.load(delivery, self.dtype, self.device)
        return LoadedWeights(weights.tensors_of(model), weights.plain_logprobs(model, self.probe))

    def replace_weights(self, delivered: LoadedWeights) -> float:
        """Compute with the delivered weights from now on.

        Returns:
            The largest difference on the probe, in nats.

        Raises:
            FailedPrecondition: The model does not compute as delivered; it has its old weights again.
        """
        before = weights.move_into(self._model, delivered.tensors)
        try:
            difference = self._probe_difference(delivered.reference, len(self.probe) - PROBE_STEPS)[0]
            self._check_probe(difference)
        except Exception:
            weights.move_into(self._model, before)
            raise
        return difference

    def _side_by_side(self, sequences: list[NDArray[np.int32]]) -> list[ComputedSequence]:
        lengths = [len(tokens) for tokens in sequences]
        ids = torch.zeros(len(sequences), max(lengths), dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            ids[row, : lengths[row]] = torch.from_numpy(tokens)
        # Logits are computed at last positions only; sequences of the same length share one.
        ends = sorted(set(lengths))
        prefill = Prefill()
        logits = self.forward(ids.to(self.device), None, prefill, torch.tensor(ends, device=self.device) - 1)
        return [
            prefill.sequence(row, tokens, logits[row, ends.index(len(tokens))][None])
            for row, tokens in enumerate(sequences)
        ]

    def _probe_difference(self, reference: torch.Tensor, start: int) -> tuple[float, int]:
        """Compute the first `start` tokens of the probe by prefill, and the others by steps.

        Returns:
            The largest difference from `reference` in nats, and the bytes of the keys and values of one
            token.
        """
        tokens = self.probe
        prefill, rows = Prefill(), Rows(1)
        logits = [self.forward(tokens[None, :start], None, prefill, 0)[0]]
        known = prefill.sequence(0, tokens[:start].cpu().numpy(), logits[0][-1:])
        rows.join(known, 1)
        for at in range(start, len(tokens) - 1):
            position = torch.tensor([at], device=self.device)
            rows.prepare(position)
            logits.append(self.forward(tokens[None, at : at + 1], position[None], rows, 1)[0])
        logprobs = torch.log_softmax(torch.cat(logits), -1).gather(-1, tokens[1:, None])[:, 0]
        kv_bytes = sum(key.nbytes + value.nbytes for key, value in known.layers) // start
        return float((logprobs - reference).abs().max()), kv_bytes

    def _check_probe(self, difference: float) -> None:
        tolerance = weights.TOLERANCE[self.dtype]
        if not difference <= tolerance:  # also refuses NaN
            text = (
                f"the engine's log-probabilities on the probe differ by {difference:.2g} nats from those of "
                f"a plain forward pass of the same tensors; at most {tolerance} is allowed"
            )
            raise FailedPrecondition(text)

    def _check_attention(self) -> int:
        """Refuse models whose attention this engine computes differently; return the bytes of a token."""
        with torch.inference_mode():
            reference = weights.plain_logprobs(self._model, self.probe)
            difference, kv_bytes = self._probe_difference(reference, len(self.probe) // 2)
        self._check_probe(difference)
        return kv_bytes
