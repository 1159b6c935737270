"""HTML of a prompt's page: what is shown is chosen here, and templates/parts.html.j2 renders it.

The template engine escapes all text that comes from a run or a service; nothing here writes HTML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from extra_client import PrefixCandidate
from extra_inspector.diff import Piece
from extra_inspector.index import GroupSummary, PromptRow, WrongAnswer
from extra_inspector.memories import SolutionMap
from extra_inspector.prefixes import Choice, Origin
from extra_inspector.tokens import Token
from extra_rl.references import shown_answer
from extra_rl.vocabulary import FinishReason, UnparseableSide
from extra_trainer.runs.schema import RolloutRecord

#: Entropies, in nats, from which a token has the next colour.
ENTROPY_STEPS = (0.02, 0.1, 0.3, 0.6, 1.0, 1.5, 2.2)
#: Novelties from which a solution on the map has the next colour.
NOVELTY_STEPS = (1e-4, 0.01, 0.05, 0.2)
#: Tokens of a rollout that are shown before "Show all".
SHOWN_TOKENS = 1200
#: Most candidates in the table.
SHOWN_CANDIDATES = 40
#: Most characters of a continuation in the list.
CONTINUATION_CHARACTERS = 160
#: Most wrong answers in the table, and most steps of each.
LISTED_ANSWERS = 20
LISTED_STEPS = 8
#: Size of the map, and of its empty border.
WIDTH, HEIGHT, MARGIN = 560, 330, 34
#: Shown for what a record does not have.
MISSING = "–"


@dataclass(frozen=True)
class SolutionRow:
    """One row of the table of solutions."""

    number: int
    step: int
    sample: int
    novelty: float | None
    #: Describes the nearest neighbour.
    nearest: str
    excerpt: str


@dataclass(frozen=True)
class Stored:
    """The prefixes of a prompt in a live service, or why there are none to show."""

    source: str
    prefixes: Sequence[PrefixCandidate] = ()
    problem: str = ""


def number(value: float | None, form: str) -> str:
    """Return a number by a format specification, MISSING for None."""
    return MISSING if value is None else format(value, form)


def outcome(counts: PromptRow | GroupSummary) -> str:
    """Return how many rollouts are correct, and how many have no verdict or are masked."""
    if not counts.verdicts:
        return "no verdicts"
    unknown = counts.rollouts - counts.verdicts
    notes = [
        *([f"{unknown} without a verdict"] if unknown else []),
        *([f"{counts.masked} masked"] if counts.masked else []),
    ]
    return ", ".join([f"{counts.correct} of {counts.rollouts} correct", *notes])


def on_one_line(text: str) -> str:
    """Return a text on one line, with marks where lines end."""
    return text.strip().replace("\n", " ⏎ ")


@cache
def _parts() -> Any:
    """Return the macros of the template."""
    environment = Environment(
        loader=PackageLoader("extra_inspector"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"number": number, "lines": on_one_line, "outcome": outcome}
    return environment.get_template("parts.html.j2").module


def link(prompt_id: str, **parameters: object) -> str:
    """Return the address of a prompt's page; parameters that are None are left out."""
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"/prompt/{quote(prompt_id, safe='')}" + (f"?{query}" if query else "")


def badge(status: str | None) -> Markup:
    """Return a label with a verdict's status; None: nobody has verified the rollout."""
    return _rendered("badge", status)


def heading(text: str) -> Markup:
    """Return a page's heading."""
    return _rendered("heading", text)


def about(row: PromptRow) -> Markup:
    """Return the head of a prompt's page: its text, its answer, and its counts."""
    return _rendered("about", row)


def no_prompt() -> Markup:
    """Return the head of the page of a prompt that is not in the run folder."""
    return _rendered("no_prompt")


def groups_panel(
    prompt_id: str,
    groups: Sequence[GroupSummary],
    current: GroupSummary,
    origin: Origin | None,
    rollouts: Sequence[Mapping[str, Any]],
    *,
    can_score: bool = False,
) -> Markup:
    """Return the groups of a prompt as links, and the rollouts of one of them.

    Args:
        prompt_id: The prompt.
        groups: Its groups.
        current: The group whose rollouts are shown.
        origin: Where its prefix comes from, None if it has none or that is not known.
        rollouts: Its rollouts, as `rollout_view` describes them.
        can_score: Whether entropies that are missing can be computed.
    """
    source = origin.source if origin else None
    return _rendered(
        "groups_panel",
        {
            "groups": _group_items(prompt_id, groups, current),
            "group": current,
            "origin": origin,
            "origin_href": source
            and link(prompt_id, step=source.step, place=source.place, sample=source.sample),
            "scale": ["0", *(f"{step:g}" for step in ENTROPY_STEPS)],
            "rollouts": rollouts,
            "can_score": can_score and any(view["record"].mean_entropy is None for view in rollouts),
        },
    )


def group_list(prompt_id: str, groups: Sequence[GroupSummary], current: GroupSummary) -> Markup:
    """Return the groups of a prompt as links; the current one is marked."""
    return _rendered("group_list", _group_items(prompt_id, groups, current))


def _group_items(
    prompt_id: str, groups: Sequence[GroupSummary], current: GroupSummary
) -> list[dict[str, Any]]:
    return [
        {
            "group": group,
            "href": link(prompt_id, step=group.step, place=group.place),
            "current": group == current,
        }
        for group in groups
    ]


def rollout(
    record: RolloutRecord,
    tokens: Sequence[Token] | None,
    split: Choice | None,
    *,
    highlighted: bool = False,
    whole: bool = False,
) -> Markup:
    """Return a rollout: its verdict with the reasons, and its tokens coloured by entropy.

    Args:
        record: The rollout.
        tokens: Its tokens; None: its text is shown without them.
        split: The prefix choice, if this rollout was split for it.
        highlighted: Whether the page's address names it.
        whole: Whether to show all its tokens.
    """
    return _rendered("rollout", rollout_view(record, tokens, split, highlighted=highlighted, whole=whole))


def rollout_view(
    record: RolloutRecord,
    tokens: Sequence[Token] | None,
    split: Choice | None,
    *,
    highlighted: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Return what the template shows of a rollout; the arguments are those of `rollout`."""
    compared = (record.normalized_response, record.normalized_answer)
    differ = any(compared) and compared != (record.extracted, shown_answer(record.answer))
    shown = (tokens or ()) if whole else (tokens or ())[:SHOWN_TOKENS]
    return {
        "record": record,
        "highlighted": highlighted,
        "cut_off": record.finish_reason is FinishReason.LENGTH,
        "unreadable_answer": record.unparseable_side is UnparseableSide.ANSWER,
        "compared": compared if differ else None,
        "uncertain": _most_uncertain(tokens or ()),
        "no_tokens": "" if tokens is not None else _no_tokens(record),
        "spans": _spans(shown, split),
        "tokens": len(tokens or ()),
    }


def _no_tokens(record: RolloutRecord) -> str:
    if not len(record.token_ids):
        return "the log holds no token ids"
    return "the run folder has no vocabulary.json: tokens cannot be shown"


def _spans(tokens: Sequence[Token], split: Choice | None) -> list[dict[str, Any]]:
    """Return what the template shows of each token; at the end of a prefix stands the prefix's number."""
    cuts = {length: number for number, length in enumerate(split.lengths, 1)} if split else {}
    best = _chosen_length(split)
    spans: list[dict[str, Any]] = []
    for place, token in enumerate(tokens, 1):
        cut, text, rest = cuts.get(place), token.text or "∎", ""
        ends = token.ends_segment and cut is None
        if cut is not None and "\n" in text:
            # The mark comes before the newline that ends the prefix.
            head, _, tail = text.partition("\n")
            text, rest = head, f"\n{tail}"
        elif ends:
            text = text.replace("\n", "⏎\n", 1)
        spans.append(
            {
                "kind": _token_kind(token) + (" seg" if ends else ""),
                "title": _token_title(token),
                "before": text,
                "after": rest,
                "prefix": cut,
                "chosen": cut is not None and place == best,
                "label": f"prefix {cut}: {place} tokens{', chosen' if place == best else ''}",
            }
        )
    return spans


def _token_title(token: Token) -> str:
    if token.unknown:
        return "entropy not known"
    return "prefix: not sampled here" if token.entropy is None else f"{token.entropy:.3f} nats"


def _token_kind(token: Token) -> str:
    if token.unknown:
        return "unknown"
    return "context" if token.entropy is None else f"e{_step(token.entropy, ENTROPY_STEPS)}"


def _chosen_length(split: Choice | None) -> int | None:
    """Return the length of the chosen prefix, None if it is of another rollout than the split one."""
    chosen = split.selected if split else None
    if split is None or chosen is None or chosen.source is None or chosen.source.sample != split.sample:
        return None
    return chosen.record.length


def _step(value: float, steps: Sequence[float]) -> int:
    return sum(value >= step for step in steps)


def _most_uncertain(tokens: Sequence[Token]) -> list[Token]:
    sampled = [token for token in tokens if token.entropy is not None]
    worst = sorted(sampled, key=lambda token: -(token.entropy or 0.0))[:3]
    return [token for token in worst if (token.entropy or 0) >= ENTROPY_STEPS[1]]


def prefixes_panel(
    prompt_id: str,
    group: GroupSummary,
    choice: Choice | None,
    grown: Sequence[tuple[GroupSummary, Sequence[RolloutRecord]]],
    stored: Stored | None,
) -> Markup:
    """Return how a group was split, the prefixes that could be chosen, and what is stored now.

    Args:
        prompt_id: The prompt.
        group: The group.
        choice: The choice made after it, None if it was not split.
        grown: The groups to list that continued from the chosen prefix, with their rollouts.
        stored: The prefixes in a live service, None if there is no service to ask.
    """
    view = None
    if choice is not None:
        view = {
            "sample": choice.sample,
            "candidates": candidates(choice),
            "continuations": continuations(prompt_id, choice, grown),
        }
    return _rendered("prefixes_panel", group, view, stored)


def candidates(choice: Choice) -> Markup:
    """Return a table of the prefixes that could be chosen, best first."""
    records = [candidate.record for candidate in choice.candidates]
    most = max((max(r.mean_entropy, r.smoothed_entropy) for r in records), default=0.0) or 1.0
    shown = choice.candidates[:SHOWN_CANDIDATES]
    return _rendered("candidates", shown, len(choice.candidates) - len(shown), most)


def continuations(
    prompt_id: str, choice: Choice, groups: Sequence[tuple[GroupSummary, Sequence[RolloutRecord]]]
) -> Markup:
    """Return the groups that continued from the chosen prefix, with the continuations of their samples.

    Args:
        prompt_id: The prompt.
        choice: The choice.
        groups: The groups to list, with their rollouts.
    """
    chosen = choice.selected
    if chosen is None:
        return Markup()
    items = [
        {
            "group": group,
            "href": link(prompt_id, step=group.step, place=group.place),
            "samples": [{"status": record.status, "text": _after(record, chosen.text)} for record in records],
        }
        for group, records in groups
    ]
    return _rendered("continuations", not choice.continuations, items)


def _after(record: RolloutRecord, prefix: str) -> str:
    """Return the beginning of a rollout's text after the prefix."""
    rest = on_one_line(record.text.removeprefix(prefix))
    return rest if len(rest) <= CONTINUATION_CHARACTERS else rest[:CONTINUATION_CHARACTERS] + "…"


def stored_prefixes(prefixes: Sequence[PrefixCandidate]) -> Markup:
    """Return a table of the prefixes of a prompt in a live service."""
    return _rendered("stored_prefixes", prefixes)


def memory_panel(
    known: int | None,
    problem: str,
    shown: Markup | None,
    mapped: int,
    source: str,
    comparison: Markup | None,
    rows: Sequence[SolutionRow],
    chosen: int | None,
) -> Markup:
    """Return a prompt's memory of correct solutions.

    Args:
        known: Number of the solutions ever found, None if steps are missing in the run folder.
        problem: Why there is no map, "" if there is one.
        shown: The map, as `solution_map` returns it.
        mapped: Number of the solutions on it.
        source: Name of the memory that it is of.
        comparison: The chosen solution beside its nearest, as `compared` returns it.
        rows: The solutions of the table.
        chosen: The chosen solution.
    """
    return _rendered(
        "memory_panel",
        {
            "known": known,
            "problem": problem,
            "map": shown,
            "mapped": mapped,
            "source": source,
            "compared": comparison,
            "rows": rows,
            "chosen": chosen,
        },
    )


def solution_map(
    shown: SolutionMap, novelties: Mapping[int, float], prompt_id: str, chosen: int | None
) -> Markup:
    """Return the map as SVG; every solution is a link to its comparison.

    Args:
        shown: The map.
        novelties: Solution number -> its novelty when it came.
        prompt_id: The prompt.
        chosen: The solution to mark.
    """
    at = _placed(shown)
    joins = [
        {
            "x1": at[row][0],
            "y1": at[row][1],
            "x2": at[other][0],
            "y2": at[other][1],
            "stroke": 0.7 + 2 * max(0.0, shown.similarity[row]) ** 4,
        }
        for row, other in enumerate(shown.nearest)
        if other >= 0
    ]
    dots = []
    labelled: list[tuple[float, float]] = []
    for solution, (x, y), excerpt in zip(shown.numbers, at, shown.excerpts, strict=True):
        novelty = novelties.get(solution)
        # Solutions at the same place share one label.
        alone = all(abs(x - a) > 14 or abs(y - b) > 11 for a, b in labelled)
        if alone:
            labelled.append((x, y))
        dots.append(
            {
                "number": solution,
                "name": f"Solution {solution}" + ("" if novelty is None else f", novelty {novelty:.4f}"),
                "href": link(prompt_id, solution=solution),
                "excerpt": excerpt[:120],
                "x": x,
                "y": y,
                "step": _step(novelty or 0.0, NOVELTY_STEPS),
                "chosen": solution == chosen,
                "labelled": alone,
            }
        )
    return _rendered(
        "solution_map",
        {
            "width": WIDTH,
            "height": HEIGHT,
            "joins": joins,
            "dots": dots,
            "ends": [0, *NOVELTY_STEPS],
            "explained": shown.explained,
        },
    )


def _placed(shown: SolutionMap) -> list[tuple[float, float]]:
    """Return the coordinates in the drawing; both components have the same scale."""
    xs, ys = shown.places[:, 0], shown.places[:, 1]
    left, right, low, high = (float(value) for value in (xs.min(), xs.max(), ys.min(), ys.max()))
    wide, high_ = max(right - left, 1e-6), max(high - low, 1e-6)
    scale = min((WIDTH - 2 * MARGIN) / wide, (HEIGHT - 2 * MARGIN) / high_)
    middle = ((left + right) / 2, (low + high) / 2)
    return [
        (WIDTH / 2 + (float(x) - middle[0]) * scale, HEIGHT / 2 - (float(y) - middle[1]) * scale)
        for x, y in zip(xs, ys, strict=True)
    ]


def solutions(rows: Sequence[SolutionRow], chosen: int | None) -> Markup:
    """Return a table of solutions: the step and novelty when they came, and their nearest neighbours."""
    return _rendered("solutions", rows, chosen)


def compared(
    solution: int, step: int, record: RolloutRecord, nearest: str, pieces: Sequence[Piece] | None
) -> Markup:
    """Return a solution beside the solution that was nearest when it came.

    Args:
        solution: Its number.
        step: The step it came in.
        record: Its rollout.
        nearest: Describes the nearest.
        pieces: The difference to the nearest, None if that is not in the run folder.
    """
    return _rendered(
        "compared",
        {
            "number": solution,
            "step": step,
            "novelty": record.novelty,
            "text": record.text,
            "nearest": nearest,
            "pieces": pieces,
            "same": pieces is not None and len(pieces) == 1 and pieces[0].kind == "same",
        },
    )


def answers_panel(answers: Sequence[WrongAnswer]) -> Markup:
    """Return the wrong answers of a prompt."""
    return _rendered("answers_panel", wrong_answers(answers) if answers else None)


def wrong_answers(answers: Sequence[WrongAnswer]) -> Markup:
    """Return a table of wrong answers: how often each was given, and in which steps."""
    rows = [
        {
            "wrong": wrong,
            "first": min(wrong.steps),
            "last": max(wrong.steps),
            "recent": list(wrong.steps.items())[-LISTED_STEPS:],
            "earlier": len(wrong.steps) > LISTED_STEPS,
        }
        for wrong in answers[:LISTED_ANSWERS]
    ]
    return _rendered("wrong_answers", rows, len(answers) - LISTED_ANSWERS)


def difference(pieces: Sequence[Piece], first: str, second: str) -> Markup:
    """Return the difference of two texts: deleted parts struck out, inserted parts underlined.

    Args:
        pieces: The difference.
        first: Name of the first text.
        second: Name of the second text.
    """
    return _rendered("difference", pieces, first, second)


def plain_text(text: str) -> Markup:
    """Return a text without marks."""
    return _rendered("plain_text", text)


def _rendered(part: str, *values: Any) -> Markup:
    made: Markup = getattr(_parts(), part)(*values)
    return made
