"""HTML of a prompt's page. All text that comes from a run is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote, urlencode

from extra_client import PrefixCandidate
from extra_inspector.diff import Piece
from extra_inspector.index import GroupSummary, WrongAnswer
from extra_inspector.memories import SolutionMap
from extra_inspector.prefixes import Candidate, Choice, Origin
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


@dataclass(frozen=True)
class SolutionRow:
    """One row of the table of solutions."""

    number: int
    step: int
    sample: int
    novelty: float
    #: Describes the nearest neighbour.
    nearest: str
    excerpt: str


def link(prompt_id: str, **parameters: object) -> str:
    """Return the address of a prompt's page; parameters that are None are left out."""
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"/prompt/{quote(prompt_id, safe='')}" + (f"?{query}" if query else "")


def badge(status: str) -> str:
    """Return a label with a verdict's status."""
    return f'<span class="badge {escape(status)}">{escape(status)}</span>'


def group_list(prompt_id: str, groups: Sequence[GroupSummary], current: GroupSummary) -> str:
    """Return the groups of a prompt as links; the current one is marked."""
    items = []
    for group in groups:
        guided = ", guided" if group.guided else ""
        label = f"Step {group.step}: {group.correct} of {group.rollouts} correct{guided}"
        href = link(prompt_id, step=group.step, place=group.place)
        now = ' aria-current="true"' if group == current else ""
        share = 100 * group.correct / group.rollouts
        items.append(
            f'<li><a href="{href}" aria-label="{label}"{now} data-group="{group.step}/{group.place}">'
            f"<span>step {group.step}{' ↳' if group.guided else ''}</span>"
            f"<span>{group.correct}/{group.rollouts}</span>"
            f'<span class="rate" style="--p:{share:.0f}%"></span></a></li>'
        )
    return f'<ul class="groups">{"".join(items)}</ul>'


def entropy_scale() -> str:
    """Return the key of the tokens' colours and marks."""
    ends = ["0", *(f"{step:g}" for step in ENTROPY_STEPS)]
    steps = "".join(f'<span class="e{place}">{end}</span>' for place, end in enumerate(ends))
    return (
        f'<div class="scale"><span>Entropy in nats, from</span><span class="steps">{steps}</span>'
        '<span><span class="seg">&nbsp;</span> segment ends</span>'
        '<span><span class="cut">1</span> prefix stored</span>'
        '<span><span class="cut chosen">1</span> prefix chosen</span></div>'
    )


def rollout(
    record: RolloutRecord,
    tokens: list[Token] | None,
    split: Choice | None,
    *,
    highlighted: bool = False,
    whole: bool = False,
) -> str:
    """Return a rollout: its verdict with the reasons, and its tokens coloured by entropy.

    Args:
        record: The rollout.
        tokens: Its tokens; None: its text is shown without them.
        split: The prefix choice, if this rollout was split for it.
        highlighted: Whether the page's address names it.
        whole: Whether to show all its tokens.
    """
    body = _tokens(tokens, split, whole=whole) if tokens else f'<p class="tokens">{escape(record.text)}</p>'
    kind = "rollout highlighted" if highlighted else "rollout"
    label = escape(f"Sample {record.sample}, {record.status}")
    return (
        f'<article class="{kind}" aria-label="{label}" id="sample-{record.sample}">'
        f"<header>{''.join(f'<span>{fact}</span>' for fact in _facts(record))}</header>{body}"
        f'<p class="soft">{"; ".join(_notes(record, tokens))}</p></article>'
    )


def _facts(record: RolloutRecord) -> list[str]:
    facts = [f"<strong>Sample {record.sample}</strong>", badge(record.status)]
    facts.append(f"answer <code>{escape(record.extracted) or 'none'}</code>")
    facts.append(f"decided by <code>{escape(record.rule)}</code>")
    if record.correct:
        facts.append(f"novelty {record.novelty:.4f}")
    if record.new_steps:
        facts.append(f"new steps <code>{escape(', '.join(record.new_steps))}</code>")
    if record.suspicious:
        facts.append(f"suspicious, no novelty bonus: {escape(record.suspicious)}")
    if record.behind_answer:
        facts.append(f"{record.behind_answer} characters behind the final answer")
    if record.times_given is not None:
        facts.append(f"answer given {record.times_given:g} times, outcome bonus {record.outcome_bonus:+.4f}")
    facts.append(f"mean entropy {record.mean_entropy:.3f}")
    facts.append(f"{record.tokens} tokens")
    if record.finish_reason is FinishReason.LENGTH:
        facts.append("cut off")
    return facts


def _notes(record: RolloutRecord, tokens: list[Token] | None) -> list[str]:
    notes = []
    if record.unparseable_side is UnparseableSide.ANSWER:
        notes.append("the reference answer could not be read: nothing is known about the response")
    compared = (record.normalized_response, record.normalized_answer)
    if any(compared) and compared != (record.extracted, shown_answer(record.answer)):
        notes.append(f"compared <code>{escape(compared[0])}</code> with <code>{escape(compared[1])}</code>")
    if record.detail:
        notes.append(escape(record.detail))
    uncertain = _most_uncertain(tokens or [])
    if uncertain:
        notes.append(f"least certain tokens: {uncertain}")
    if tokens is None:
        notes.append("the run folder has no vocabulary.json: tokens cannot be shown")
    return notes


def _tokens(tokens: Sequence[Token], split: Choice | None, *, whole: bool) -> str:
    cuts = {length: number for number, length in enumerate(split.lengths, 1)} if split else {}
    chosen = split.selected if split else None
    source = chosen.source if chosen else None
    own = source is not None and split is not None and source.sample == split.sample
    parts = []
    shown = tokens if whole else tokens[:SHOWN_TOKENS]
    for place, token in enumerate(shown, 1):
        if token.entropy is None:
            kind, title = "context", "prefix: not sampled here"
        else:
            kind, title = f"e{_step(token.entropy, ENTROPY_STEPS)}", f"{token.entropy:.3f} nats"
        cut = cuts.get(place)
        seg = " seg" if token.ends_segment and cut is None else ""
        text = escape(token.text) or "∎"
        if cut is not None:
            # The mark comes before the newline that ends the prefix.
            best = own and chosen is not None and chosen.record.length == place
            label = f"prefix {cut}: {place} tokens{', chosen' if best else ''}"
            mark = f'<span class="cut{" chosen" if best else ""}" title="{label}">{cut}</span>'
            text = text.replace("\n", f"{mark}\n", 1) if "\n" in text else text + mark
        elif seg:
            text = text.replace("\n", "⏎\n", 1)
        parts.append(f'<span class="t {kind}{seg}" title="{title}">{text}</span>')
    more = ""
    if len(shown) < len(tokens):
        more = f' <button class="link" data-whole="1">Show all {len(tokens)} tokens</button>'
    # Not a paragraph: it scrolls, so it must be reachable by keyboard.
    return f'<div class="tokens" tabindex="0" role="region" aria-label="Tokens">{"".join(parts)}{more}</div>'


def _step(value: float, steps: Sequence[float]) -> int:
    return sum(value >= step for step in steps)


def _most_uncertain(tokens: Iterable[Token]) -> str:
    sampled = [token for token in tokens if token.entropy is not None]
    worst = sorted(sampled, key=lambda token: -(token.entropy or 0.0))[:3]
    return ", ".join(
        f"<code>{escape(_lines(token.text)) or '⏎'}</code> ({token.entropy:.2f})"
        for token in worst
        if (token.entropy or 0) >= ENTROPY_STEPS[1]
    )


def prefix_origin(prompt_id: str, origin: Origin | None, group: GroupSummary) -> str:
    """Return a sentence on the origin of a guided group's prefix, "" for other groups."""
    if not group.guided:
        return ""
    if not group.prefix_id:
        return "<p>This group samples the hard prompt again, without a prefix.</p>"
    if origin is None:
        return "<p>This group continues from a prefix whose origin is not in the run folder.</p>"
    chosen = f"chosen in step {origin.chosen_in}"
    source = origin.source
    if source is None:
        return f"<p>This group continues from a prefix {chosen}.</p>"
    href = link(prompt_id, step=source.step, place=source.place, sample=source.sample)
    rollout = f'<a href="{href}">sample {source.sample} of step {source.step}</a>'
    return f"<p>This group continues from a prefix of {rollout}, {chosen}.</p>"


def candidates(choice: Choice) -> str:
    """Return a table of the prefixes that could be chosen, best first."""
    if not choice.candidates:
        return "<p>No prefix of this prompt could be stored: no rollout has a newline.</p>"
    records = [candidate.record for candidate in choice.candidates]
    most = max(max(r.mean_entropy, r.smoothed_entropy) for r in records) or 1.0
    rows = "".join(_candidate(candidate, most) for candidate in choice.candidates[:SHOWN_CANDIDATES])
    rest = len(choice.candidates) - SHOWN_CANDIDATES
    more = f'<p class="soft">{rest} more, ranked lower.</p>' if rest > 0 else ""
    heads = ["", "tokens", "entropy", "smoothed", "correct", "from", "text"]
    return _table("Candidate prefixes", heads, rows, left=("from", "text")) + more


def _candidate(candidate: Candidate, most: float) -> str:
    record, source = candidate.record, candidate.source
    origin = "not in the folder" if record.prefix_id else ""
    if source is not None:
        origin = f"step {source.step}, sample {source.sample}"
    outcomes = f"{record.successes} of {record.rollouts}" if record.rollouts else "-"
    text = escape(_lines(candidate.text)) if record.prefix_id else "(none: the prompt alone)"
    state = "<strong>chosen</strong>" if candidate.selected else "dropped" if record.dropped else ""
    return (
        f'<tr class="{"chosen" if candidate.selected else ""}"><td>{state}</td><td>{record.length}</td>'
        f"<td>{_bar(record.mean_entropy, most, 'bar raw')}</td>"
        f"<td>{_bar(record.smoothed_entropy, most, 'bar')}</td>"
        f'<td>{outcomes}</td><td class="left">{origin}</td><td class="left mono">{text}</td></tr>'
    )


def _lines(text: str) -> str:
    """Return a text on one line, with marks where lines end."""
    return text.strip().replace("\n", " ⏎ ")


def _table(label: str, heads: Sequence[str], rows: str, left: Sequence[str]) -> str:
    """Return a table that scrolls and can be reached by keyboard."""
    head = "".join(
        f'<th scope="col"{" class=left" if name in left else ""}>{name}</th>' if name else "<td></td>"
        for name in heads
    )
    return (
        f'<div class="scrolled" tabindex="0" role="region" aria-label="{label}"><table class="plain">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _bar(value: float, most: float, kind: str) -> str:
    return f'{value:.3f}<span class="{kind}" style="--w:{100 * value / most:.0f}%"></span>'


def continuations(
    prompt_id: str, choice: Choice, groups: Sequence[tuple[GroupSummary, Sequence[RolloutRecord]]]
) -> str:
    """Return the groups that continued from the chosen prefix, with the continuations of their samples.

    Args:
        prompt_id: The prompt.
        choice: The choice.
        groups: The groups to list, with their rollouts.
    """
    chosen = choice.selected
    if chosen is None:
        return ""
    title = "<h3>Continuations grown from the chosen prefix</h3>"
    if not choice.continuations:
        return f"{title}<p>None yet: the guided prompt waits in the queue, or left it.</p>"
    parts = []
    for group, records in groups:
        href = link(prompt_id, step=group.step, place=group.place)
        rescued = ": rescued" if group.correct else ""
        samples = "".join(
            f'<li>{badge(record.status)} <span class="mono">{escape(_after(record, chosen.text))}</span></li>'
            for record in records
        )
        parts.append(
            f'<p><a href="{href}" data-group="{group.step}/{group.place}">Step {group.step}</a>:'
            f" {group.correct} of {group.rollouts} correct{rescued}</p>"
            f'<ul class="grown" tabindex="0" aria-label="Samples of step {group.step}">{samples}</ul>'
        )
    return title + "".join(parts)


def _after(record: RolloutRecord, prefix: str) -> str:
    """Return the beginning of a rollout's text after the prefix."""
    rest = _lines(record.text.removeprefix(prefix))
    return rest if len(rest) <= CONTINUATION_CHARACTERS else rest[:CONTINUATION_CHARACTERS] + "…"


def stored_prefixes(prefixes: Sequence[PrefixCandidate]) -> str:
    """Return a table of the prefixes of a prompt in a live service."""
    rows = "".join(
        f"<tr><td>{p.length}</td><td>{p.mean_entropy:.3f}</td><td>{p.smoothed_entropy:.3f}</td>"
        f'<td>{p.successes} of {p.rollouts}</td><td class="left mono">{escape(_lines(p.text))}</td></tr>'
        for p in prefixes
    )
    heads = ["tokens", "entropy", "smoothed", "correct", "text"]
    return _table("Prefixes stored now", heads, rows, left=("text",))


WIDTH, HEIGHT, MARGIN = 560, 330, 34


def solution_map(
    shown: SolutionMap, novelties: Mapping[int, float], prompt_id: str, chosen: int | None
) -> str:
    """Return the map as SVG; every solution is a link to its comparison.

    Args:
        shown: The map.
        novelties: Solution number -> its novelty when it came.
        prompt_id: The prompt.
        chosen: The solution to mark.
    """
    at = _placed(shown)
    joins = "".join(
        f'<line class="join" x1="{at[row][0]:.1f}" y1="{at[row][1]:.1f}"'
        f' x2="{at[other][0]:.1f}" y2="{at[other][1]:.1f}"'
        f' stroke-width="{0.7 + 2 * max(0.0, shown.similarity[row]) ** 4:.2f}"/>'
        for row, other in enumerate(shown.nearest)
        if other >= 0
    )
    dots = []
    labelled: list[tuple[float, float]] = []
    for number, (x, y), excerpt in zip(shown.numbers, at, shown.excerpts, strict=True):
        novelty = novelties.get(number)
        name = f"Solution {number}" + ("" if novelty is None else f", novelty {novelty:.4f}")
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if number == chosen else ""
        label = ""
        # Solutions at the same place share one label.
        if all(abs(x - a) > 14 or abs(y - b) > 11 for a, b in labelled):
            labelled.append((x, y))
            label = f'<text x="{x + 9:.1f}" y="{y - 7:.1f}" aria-hidden="true">{number}</text>'
        dots.append(
            f'<a href="{link(prompt_id, solution=number)}" data-solution="{number}" aria-label="{name}">'
            f"<title>{name}: {escape(excerpt[:120])}</title>"
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="6.5"'
            f' fill="var(--s{_step(novelty or 0.0, NOVELTY_STEPS)})"/>{ring}{label}</a>'
        )
    first, second = shown.explained
    label = f"Map of {len(shown.numbers)} solutions; the table below lists them"
    steps = "".join(
        f'<span><span class="dot-key" style="background:var(--s{place})"></span>{end:g}</span>'
        for place, end in enumerate((0, *NOVELTY_STEPS))
    )
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{label}">'
        f'{joins}{"".join(dots)}</svg><div class="scale"><span>Novelty when it came, from</span>{steps}</div>'
        f'<p class="soft">First two principal components of the embeddings ({first:.0%} and {second:.0%} of '
        "the variance); lines join each solution to its nearest.</p>"
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


def solutions(rows: Sequence[SolutionRow], chosen: int | None) -> str:
    """Return a table of solutions: the step and novelty when they came, and their nearest neighbours."""
    body = "".join(
        f'<tr class="{"chosen" if row.number == chosen else ""}"><td><button class="link"'
        f' data-solution="{row.number}" aria-label="Compare solution {row.number}">'
        f"{row.number}</button></td><td>{row.step}</td><td>{row.sample}</td>"
        f'<td>{row.novelty:.4f}</td><td class="left">{escape(row.nearest)}</td>'
        f'<td class="left mono">{escape(row.excerpt)}</td></tr>'
        for row in rows
    )
    heads = ["solution", "step", "sample", "novelty", "nearest when it came", "text"]
    return _table("Solutions", heads, body, left=("nearest when it came", "text"))


def wrong_answers(answers: Sequence[WrongAnswer]) -> str:
    """Return a table of wrong answers: how often each was given, and in which steps."""
    rows = []
    for wrong in answers[:LISTED_ANSWERS]:
        first, last = min(wrong.steps), max(wrong.steps)
        recent = list(wrong.steps.items())[-LISTED_STEPS:]
        by_step = ", ".join(f"{step}: {times}" for step, times in recent)
        earlier = "..., " if len(recent) < len(wrong.steps) else ""
        answer = f"<code>{escape(wrong.answer)}</code>" if wrong.answer else "none"
        rows.append(
            f'<tr><td class="left">{answer}</td><td>{wrong.times}</td><td>{first}</td><td>{last}</td>'
            f'<td class="left">{earlier}{by_step}</td></tr>'
        )
    heads = ["wrong answer", "times", "first step", "last step", "times by step"]
    table = _table("Wrong answers", heads, "".join(rows), left=("wrong answer", "times by step"))
    more = len(answers) - LISTED_ANSWERS
    return table + (f"<p>and {more} more</p>" if more > 0 else "")


def difference(pieces: Sequence[Piece], first: str, second: str) -> str:
    """Return the difference of two texts: deleted parts struck out, inserted parts underlined.

    Args:
        pieces: The difference.
        first: Name of the first text.
        second: Name of the second text.
    """
    tags = {"same": ("", ""), "gone": ("<del>", "</del>"), "new": ("<ins>", "</ins>")}
    body = "".join(f"{tags[p.kind][0]}{escape(p.text)}{tags[p.kind][1]}" for p in pieces)
    return (
        f'<p class="soft">From <del>{escape(first)}</del> to <ins>{escape(second)}</ins></p>'
        f'<div class="diff" tabindex="0" role="region" aria-label="Text difference">{body}</div>'
    )


def plain_text(text: str) -> str:
    """Return a text without marks."""
    return f'<div class="diff" tabindex="0" role="region" aria-label="Text">{escape(text)}</div>'
