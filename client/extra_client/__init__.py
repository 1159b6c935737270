"""Clients of the extra-rl services: generation, novelty, prefix, verification.

Blocking clients here, the same names with await in `extra_client.aio`, services as child processes in
`extra_client.embedded`. Results are dataclasses with numpy arrays; errors are subclasses of ExtraError. Needs
grpcio, protobuf and numpy, and imports nothing heavier.
"""

from extra_client import aio, embedded
from extra_client._generation import (
    FinishReason,
    GenerateOptions,
    GenerationInfo,
    InFlight,
    PolicyChange,
    PromptFailure,
    Rollout,
    SampledToken,
    SegmentEntropy,
    Timings,
    WeightsUpdate,
    vocab_hash,
)
from extra_client._novelty import (
    Group,
    GroupScores,
    MemoryPolicy,
    Metric,
    Namespace,
    NamespaceCopy,
    NamespaceSettings,
    ScoreMode,
)
from extra_client._prefix import (
    AddedPrefixes,
    EntropyRollout,
    HardPrompt,
    Outcome,
    SelectedPrefix,
    SelectionPolicy,
)
from extra_client._sync import GenerationClient, NoveltyClient, PrefixClient, VerificationClient
from extra_client._verification import (
    BoxChoice,
    Method,
    UnparseableSide,
    Verdict,
    VerdictStatus,
    VerifyOptions,
)
from extra_client.errors import (
    AlreadyExistsError,
    CancelledError,
    DeadlineExceededError,
    ExtraError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    UnimplementedError,
)

__all__ = [
    "AddedPrefixes",
    "AlreadyExistsError",
    "BoxChoice",
    "CancelledError",
    "DeadlineExceededError",
    "EntropyRollout",
    "ExtraError",
    "FailedPreconditionError",
    "FinishReason",
    "GenerateOptions",
    "GenerationClient",
    "GenerationInfo",
    "Group",
    "GroupScores",
    "HardPrompt",
    "InFlight",
    "InternalError",
    "InvalidArgumentError",
    "MemoryPolicy",
    "Method",
    "Metric",
    "Namespace",
    "NamespaceCopy",
    "NamespaceSettings",
    "NotFoundError",
    "NoveltyClient",
    "Outcome",
    "OverloadedError",
    "PolicyChange",
    "PrefixClient",
    "PromptFailure",
    "Rollout",
    "SampledToken",
    "ScoreMode",
    "SegmentEntropy",
    "SelectedPrefix",
    "SelectionPolicy",
    "Timings",
    "UnavailableError",
    "UnimplementedError",
    "UnparseableSide",
    "Verdict",
    "VerdictStatus",
    "VerificationClient",
    "VerifyOptions",
    "WeightsUpdate",
    "aio",
    "embedded",
    "vocab_hash",
]
