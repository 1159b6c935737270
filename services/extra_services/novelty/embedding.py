"""Embeds texts ahead of scoring, so that their vectors are in the cache when they are scored."""

from dataclasses import dataclass

import numpy as np

from extra_services.errors import InvalidInput
from extra_services.memory.memory import Memory, check_space
from extra_services.novelty.preparing import check_text
from extra_services.novelty.request import NoveltyLimits, Vectors


@dataclass(frozen=True)
class EmbeddedTexts:
    """Vectors float32 [texts, dimension], zeros for refused texts, and why each text was refused, if it was.

    `embedded` and `cached` count the texts that the model embedded and those found in its cache.
    """

    vectors: Vectors
    errors: list[InvalidInput | None]
    embedded: int
    cached: int


def embed_texts(memory: Memory, name: str, texts: list[str], limits: NoveltyLimits) -> EmbeddedTexts:
    """Embed texts as the namespace's settings say, and keep their vectors in the embedder's cache.

    Raises:
        InvalidInput: There are too many texts.
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
    usable = [row for row, error in enumerate(errors) if error is None]
    found = memory.embedder.embed_counted([texts[row] for row in usable], namespace.settings.text_window)
    vectors = np.zeros((len(texts), memory.embedder.dimension), dtype=np.float32)
    vectors[usable] = found.vectors
    return EmbeddedTexts(vectors, errors, found.embedded, found.cached)
