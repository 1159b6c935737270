"""The enums of the API, defined once for client, services and trainer.

A member `FinishReason.STOP` with the value "stop" is `FINISH_REASON_STOP` of the enum `FinishReason` in the
protos: names follow from each other, so `wire` translates without a table. `DEFAULTS` says what the zero of
each enum, `..._UNSPECIFIED`, stands for in a request; an enum that is not there has no default, and its zero
means "none". A test compares all members with the protos.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class FinishReason(StrEnum):
    """Reason for which a sample ended."""

    #: The model ended it; the end-of-sequence or stop token is the last of its tokens.
    STOP = "stop"
    #: It reached max_tokens or the context window.
    LENGTH = "length"
    #: The weights were replaced under InFlight.ABORT: a partial rollout, to resume from or to drop.
    ABORT = "abort"


class InFlight(StrEnum):
    """Treatment of samples that are being generated when the weights change."""

    #: They are finished on the old weights first; new ones wait.
    WAIT = "wait"
    #: They end at once with FinishReason.ABORT; new ones wait.
    ABORT = "abort"
    #: They go on with the new weights; Rollout.policy_changes says from which token.
    KEEP = "keep"


class MemoryPolicy(StrEnum):
    """Rollouts that are embedded, compared and stored; either way only correct ones get the bonus."""

    #: Only correct solutions.
    CORRECT = "correct"
    #: Every rollout (ExTra's released reference code).
    ALL = "all"


class Metric(StrEnum):
    """Measure of novelty."""

    #: max(0, 1 - largest cosine similarity to memory and siblings).
    EMBEDDING = "embedding"
    #: Mean over the response's n-grams of 1/sqrt(count + 1), counted over the prompt's correct responses so
    #: far, in [0, 1]. Needs token_ids.
    NGRAM_COUNT = "ngram_count"
    #: How much less likely the policy found this correct rollout than the group's others, in standard
    #: deviations of the sequence log-probability, at least 0. Needs sequence_logprobs.
    POLICY_SURPRISE = "policy_surprise"
    #: 1 - mean cosine similarity to the siblings (the graph cut of DRA-GRPO), in [0, 2].
    MEAN_COSINE = "mean_cosine"
    #: Share of the siblings that are in another semantic cluster (as in DARLING), in [0, 1].
    CLUSTER_SIZE = "cluster_size"
    #: 1/sqrt(N) for a wrong rollout whose final answer the prompt was given N times, in earlier groups and
    #: this one; right rollouts score 0. In [0, 1]. Needs answers, and no embeddings.
    OUTCOME = "outcome"
    #: Smallest probability that the solution takes another way than a stored one or a sibling, by its numbers
    #: and relations and by its text; 0 for small ones. In [0, 1]. Needs texts, and should get the problem.
    DERIVATION = "derivation"


class OutcomeScope(StrEnum):
    """Rollouts whose final answers Metric.OUTCOME counts and scores."""

    WRONG = "wrong"
    #: The wrong and the correct ones.
    ALL = "all"
    #: The wrong ones of groups without a correct one; other groups change nothing.
    ALL_WRONG = "all_wrong"


class Scale(StrEnum):
    """Divisor of the novelties."""

    #: Nothing.
    RAW = "raw"
    #: The largest of the group, if above 1e-8.
    GROUP_MAX = "group_max"
    #: The mean of the metric's positive novelties in the namespace so far: a typical new solution counts 1.
    RUNNING_MEAN = "running_mean"
    #: Not a divisor: -log of the share of the rollout's way among the prompt's remembered solutions and its
    #: group's, centered over the group's correct rollouts. Metric.DERIVATION only.
    SHARE = "share"


class TextWindow(StrEnum):
    """Part of a text that is embedded."""

    #: Of the last 512 tokens as many as the model reads: of a long solution, its opening.
    REFERENCE = "reference"
    #: The whole text: consecutive windows are embedded and averaged by length.
    WHOLE = "whole"


class VectorStorage(StrEnum):
    """Number format of stored vectors: 4 or 2 bytes a number."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class NearestKind(StrEnum):
    """Place of a nearest neighbour."""

    #: A stored solution of the prompt.
    SOLUTION = "solution"
    #: Another rollout of the same group.
    SIBLING = "sibling"


class ScoreMode(StrEnum):
    """Work of a scoring call."""

    SCORE_AND_REMEMBER = "score_and_remember"
    SCORE_ONLY = "score_only"
    REMEMBER_ONLY = "remember_only"


class SelectionPolicy(StrEnum):
    """Rule by which a prefix is selected."""

    #: Lowest entropy after smoothing over similar prefixes (ExTra).
    SMOOTHED_ENTROPY = "smoothed_entropy"
    #: The shortest prefix; of equals the most recent.
    SHORTEST = "shortest"
    #: Uniformly at random, by the request's seed.
    RANDOM = "random"
    #: The empty prefix: the prompt is sampled again from its start (the "requeue" control).
    NONE = "none"
    #: The best upper confidence bound of the success rate: reported outcomes count, smoothed entropy and
    #: length are the prior, the empty prefix competes, what has failed often enough is dropped.
    OUTCOME_AWARE = "outcome_aware"


class Method(StrEnum):
    """Comparison of a response with the reference answer."""

    #: Mathematical equality of the extracted final answers.
    MATH = "math"
    #: The same letter of a multiple-choice question.
    CHOICE = "choice"
    #: The same characters, apart from spaces and delimiters around the answer.
    EXACT = "exact"
    #: Two numbers within the tolerances of the options.
    NUMERIC = "numeric"
    #: CHOICE if the reference answer is a letter from A to H, else MATH.
    AUTO = "auto"
    #: The server's verifier that the options name.
    CUSTOM = "custom"
    #: The response's Python program passes the tests in the reference answer.
    CODE = "code"


class References(StrEnum):
    """Number of several reference answers that a response must match."""

    #: One of them.
    ANY = "any"
    #: Every one: MATH compares with the list of them, CUSTOM and CODE need each one.
    ALL = "all"


class BoxChoice(StrEnum):
    """The box that is the final answer, if a response has several."""

    LAST = "last"
    FIRST = "first"
    #: All of them together, as a list.
    ALL = "all"


class VerdictStatus(StrEnum):
    """Outcome of one verification."""

    CORRECT = "correct"
    WRONG = "wrong"
    #: No answer could be read from one side.
    UNPARSEABLE = "unparseable"
    #: Undecided: execution exceeded the time limit.
    TIMEOUT = "timeout"
    #: Undecided: the verifier failed.
    ERROR = "error"


class UnparseableSide(StrEnum):
    """The side that could not be read."""

    RESPONSE = "response"
    #: The reference answer: the data is at fault, not the model.
    ANSWER = "answer"


#: What `..._UNSPECIFIED` stands for in a request.
DEFAULTS: Mapping[type[StrEnum], StrEnum] = MappingProxyType(
    {
        InFlight: InFlight.WAIT,
        MemoryPolicy: MemoryPolicy.CORRECT,
        Metric: Metric.EMBEDDING,
        OutcomeScope: OutcomeScope.WRONG,
        Scale: Scale.RAW,
        TextWindow: TextWindow.REFERENCE,
        VectorStorage: VectorStorage.FLOAT32,
        ScoreMode: ScoreMode.SCORE_AND_REMEMBER,
        SelectionPolicy: SelectionPolicy.SMOOTHED_ENTROPY,
        Method: Method.MATH,
        BoxChoice: BoxChoice.LAST,
        References: References.ANY,
    }
)
