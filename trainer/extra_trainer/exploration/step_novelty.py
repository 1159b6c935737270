"""Novelty of one step's groups, scored while other groups of the step are still generated.

Groups are scored GROUPS_PER_CALL at a time and always in the order of the batch, so that a run is
reproducible in whatever order the rollouts arrive: the novelty of a group depends on what was remembered
before it. All groups of one prompt (a problem may be in several rows of the data, and be guided) are scored
together, as one group, when the last of them is there: else the order of rows would decide which of two
equal solutions is new.

Most of the novelty service's time goes into embedding. Solutions are therefore sent to it as soon as they are
found, and it keeps their embeddings until their groups are scored.
"""

import contextvars
import queue
import threading
from collections import Counter
from collections.abc import Sequence

from extra_client import ExtraError, Rollout, Verdict
from extra_trainer.exploration.explorer import Explorer, TextToEmbed
from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.rollouts.collector import Group, RolloutRequest

#: Groups scored in one call: a call and its durable write cost about as much for one group as for this many.
GROUPS_PER_CALL = 16


class StepNovelty:
    """Scores the groups of one step; `prepare` and `add` are callbacks of RolloutCollector.collect.

    Args:
        explorer: The exploration of the run.
        step: The training step.
        requests: Those of the step, in order.
    """

    def __init__(self, explorer: Explorer, step: int, requests: Sequence[RolloutRequest]) -> None:
        self._explorer = explorer
        self._step = step
        #: Groups of each prompt that are still to come.
        self._to_come = Counter(request.prompt_id for request in requests)
        #: By prompt, the groups that are there, with their places, as long as some are to come.
        self._incomplete: dict[str, list[tuple[int, Group]]] = {}
        self._unscored: list[tuple[int, Group]] = []
        #: By place in the batch.
        self._scored: dict[int, GroupNovelty] = {}
        self._added = 0
        #: Solutions to embed; None ends the thread.
        self._solutions: queue.SimpleQueue[TextToEmbed | None] = queue.SimpleQueue()
        self._embedding = False

    def prepare(self, request: RolloutRequest, rollout: Rollout, verdict: Verdict) -> None:
        """Have the service embed a rollout ahead of its group, if scoring will need that; does not block."""
        if self._explorer.needs_embedding(request, verdict):
            self._solutions.put(self._explorer.to_embed(request, rollout.text))
            if not self._embedding:
                self._embedding = True
                # A daemon thread: Ctrl-C must not wait for a service that does not answer.
                context = contextvars.copy_context()
                threading.Thread(target=context.run, args=(self._embed_ahead,), daemon=True).start()

    def add(self, place: int, group: Group) -> None:
        """Take the group at the next place of the batch, and score once GROUPS_PER_CALL are unscored."""
        prompt = group.request.prompt_id
        self._added += 1
        self._to_come[prompt] -= 1
        self._incomplete.setdefault(prompt, []).append((place, group))
        if not self._to_come[prompt]:
            self._unscored += self._incomplete.pop(prompt)
        if len(self._unscored) >= GROUPS_PER_CALL:
            self._score()

    def finish(self, groups: Sequence[Group]) -> list[GroupNovelty]:
        """Return the novelty of all groups of the batch; those not scored yet are scored now."""
        self._solutions.put(None)
        for place in range(self._added, len(groups)):
            self.add(place, groups[place])
        if self._unscored:
            self._score()
        return [self._scored[place] for place in range(len(groups))]

    def _score(self) -> None:
        places, groups = zip(*self._unscored, strict=True)
        self._unscored = []
        scores = self._explorer.score(groups, self._step, places[0])
        self._scored.update(zip(places, scores, strict=True))

    def _embed_ahead(self) -> None:
        """Have the service embed new texts; it keeps their vectors."""
        sent: set[TextToEmbed] = set()
        for first in iter(self._solutions.get, None):
            solutions, ended = _drain(self._solutions, first)
            new = [each for each in dict.fromkeys(solutions) if each not in sent]
            sent.update(new)
            try:
                if new:
                    self._explorer.embed(new)
            except ExtraError:
                return  # The scoring call that the step needs reports the error.
            if ended:
                return


def _drain(
    waiting: "queue.SimpleQueue[TextToEmbed | None]", first: TextToEmbed
) -> tuple[list[TextToEmbed], bool]:
    """Return `first` with everything that waits, and whether the end (None) was reached."""
    solutions = [first]
    while not waiting.empty():
        solution = waiting.get()
        if solution is None:
            return solutions, True
        solutions.append(solution)
    return solutions, False
