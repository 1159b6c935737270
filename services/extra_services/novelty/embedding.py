"""Embeds texts ahead of scoring, so that their vectors are in the cache when they are scored."""

from dataclasses import dataclass

import numpy as np

from extra_rl.vocabulary import Metric, TextWindow
from extra_services.errors import InvalidInput
from extra_services.memory.memory import Memory, TextEmbedder, check_space
from extra_services.novelty.derivation import Derivation, derivation, related
from extra_services.novelty.preparing import check_text
from extra_services.novelty.problem import statement
from extra_services.novelty.request import NoveltyLimits, Vectors
from extra_services.novelty.suspicion import reason_against, reason_against_related


@dataclass(frozen=True)
class EmbeddedTexts:
    """Vectors float32 [texts, dimension], zeros for refused texts, and why each text was refused, if it was.

    `embedded` and `cached` count the texts that the model embedded and those found in its cache.
    """

    vectors: Vectors
    errors: list[InvalidInput | None]
    embedded: int
    cached: int


def embed_texts(
    memory: Memory,
    name: str,
    texts: list[str],
    limits: NoveltyLimits,
    metric: Metric = Metric.EMBEDDING,
    problems: list[str] | None = None,
    reference_answers: list[str] | None = None,
) -> EmbeddedTexts:
    """Embed texts as `metric` will need them, and keep their vectors in the embedder's cache.

    Args:
        memory: Embeds the texts.
        name: Of the namespace, whose settings say which part of a text is embedded.
        texts: Texts of rollouts.
        limits: Largest requests and texts.
        metric: Metric that will score them. `derivation` embeds what belongs to the solution.
        problems: Problem of each text, or none; for `derivation`, which embeds them as well.
        reference_answers: Reference answer of each text, or none; likewise.

    Raises:
        InvalidInput: There are too many texts, or not as many problems or reference answers.
        NotFound: There is no such namespace.
        FailedPrecondition: The server has no embedding model, or the namespace holds vectors of another one.
    """
    if len(texts) > limits.rollouts_per_request:
        raise InvalidInput(
            "texts", f"{len(texts)} in one request; send at most {limits.rollouts_per_request}"
        )
    namespace = memory.namespace(name)
    check_space(namespace.solutions, memory.space_of_texts(), name)
    errors: list[InvalidInput | None] = []
    for text in texts:
        try:
            check_text(text, "", limits)
        except InvalidInput as error:
            errors.append(error)
        else:
            errors.append(None)
    window = namespace.settings.text_window
    if metric is Metric.DERIVATION:
        return _embed_derivations(memory.embedder, texts, errors, problems or [], reference_answers or [])
    usable = [row for row, error in enumerate(errors) if error is None]
    found = memory.embedder.embed_counted([texts[row] for row in usable], window)
    vectors = np.zeros((len(texts), memory.embedder.dimension), dtype=np.float32)
    vectors[usable] = found.vectors
    return EmbeddedTexts(vectors, errors, found.embedded, found.cached)


def _embed_derivations(
    embedder: TextEmbedder,
    texts: list[str],
    errors: list[InvalidInput | None],
    problems: list[str],
    reference_answers: list[str],
) -> EmbeddedTexts:
    """Embed the parts that belong to the solution in each text, and the problems.

    Texts that will be left out of their groups get an error.
    """
    for field, given in (("problems", problems), ("reference_answers", reference_answers)):
        if given and len(given) != len(texts):
            raise InvalidInput(field, f"{len(given)} for {len(texts)} texts: give one per text, or none")
    problems = problems or [""] * len(texts)
    reference_answers = reference_answers or [""] * len(texts)
    pairs = list(zip(problems, reference_answers, strict=True))
    stated_by = {pair: statement(*pair) for pair in dict.fromkeys(pairs)}
    found: dict[int, Derivation] = {}
    for row in [row for row, error in enumerate(errors) if error is None]:
        read = derivation(texts[row], stated_by[pairs[row]])
        if reason := reason_against(read):
            errors[row] = InvalidInput("", reason)
        else:
            found[row] = read
    stated = list(dict.fromkeys(problems[row] for row in found if problems[row].strip()))
    parts = [text for each in found.values() for text in each.to_embed]
    embedded = embedder.embed_counted(stated + parts, TextWindow.WHOLE)
    unknown = np.full(embedder.dimension, np.nan, dtype=np.float32)
    of_problem = dict(zip(stated, embedded.vectors, strict=False))
    vectors = np.zeros((len(texts), embedder.dimension), dtype=np.float32)
    start = len(stated)
    for row, each in found.items():
        end = start + len(each.to_embed)
        problem = of_problem.get(problems[row], unknown)
        kept, vectors[row], similarity = related(each, embedded.vectors[start:end], problem)
        start = end
        if reason := reason_against_related(kept, similarity):
            errors[row] = InvalidInput("", reason)
    return EmbeddedTexts(vectors, errors, embedded.embedded, embedded.cached)
