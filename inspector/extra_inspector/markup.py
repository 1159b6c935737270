"""HTML of what the page shows of one prompt. Everything that comes from a run is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from extra_client import PrefixCandidate
from extra_inspector.diff import Piece
from extra_inspector.index import Visit
from extra_inspector.memories import Map
from extra_inspector.prefixes import Candidate, Choice, Origin
from extra_inspector.tokens import Token

#: Entropies, in nats, from which a token has the next colour.
ENTROPY_STEPS = (0.02, 0.1, 0.3, 0.6, 1.0, 1.5, 2.2)
#: Novelties from which a solution on the map has the next colour.
NOVELTY_STEPS = (1e-4, 0.01, 0.05, 0.2)
#: Tokens of a rollout that are shown at first.
SHOWN_TOKENS = 1200
#: Candidates that are listed.
SHOWN_CANDIDATES = 40
#: Characters of a continuation that are shown.
CONTINUATION = 160


def link(prompt_id: str, **parameters: object) -> str:
    """Address of a prompt's page."""
    asked = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"/prompt/{quote(prompt_id, safe='')}" + (f"?{asked}" if asked else "")


def badge(status: str) -> str:
    """A verdict's status."""
    return f'<span class="badge {escape(status)}">{escape(status)}</span>'


def visits(prompt_id: str, groups: Sequence[Visit], current: Visit) -> str:
    """The groups of a prompt, to choose from."""
    items = []
    for visit in groups:
        guided = ", guided" if visit.guided else ""
        told = f"Step {visit.step}: {visit.correct} of {visit.rollouts} correct{guided}"
        href = link(prompt_id, step=visit.step, place=visit.place)
        now = ' aria-current="true"' if visit == current else ""
        share = 100 * visit.correct / visit.rollouts
        items.append(
            f'<li><a href="{href}" aria-label="{told}"{now} data-visit="{visit.step}/{visit.place}">'
            f"<span>step {visit.step}{' ↳' if visit.guided else ''}</span>"
            f"<span>{visit.correct}/{visit.rollouts}</span>"
            f'<span class="rate" style="--p:{share:.0f}%"></span></a></li>'
        )
    return f'<ul class="visits">{"".join(items)}</ul>'


def scale() -> str:
    """What the colours of tokens mean."""
    ends = ["0", *(f"{step:g}" for step in ENTROPY_STEPS)]
    steps = "".join(f'<span class="e{place}">{end}</span>' for place, end in enumerate(ends))
    return (
        f'<div class="scale"><span>Entropy in nats, from</span><span class="steps">{steps}</span>'
        '<span><span class="seg">&nbsp;</span> segment ends</span>'
        '<span><span class="cut">1</span> prefix stored</span>'
        '<span><span class="cut chosen">1</span> prefix chosen</span></div>'
    )


def rollout(
    record: dict[str, Any],
    tokens: list[Token] | None,
    split: Choice | None,
    *,
    asked: bool = False,
    whole: bool = False,
) -> str:
    """A rollout: its verdict and how it was reached, and its tokens coloured by entropy."""
    facts = [f"<strong>Sample {record['sample']}</strong>", badge(record["status"])]
    facts.append(f"answer <code>{escape(record['extracted']) or 'none'}</code>")
    if "rule" in record:
        facts.append(f"decided by <code>{escape(record['rule'])}</code>")
    if record["status"] == "correct":
        facts.append(f"novelty {record['novelty']:.4f}")
    facts.append(f"mean entropy {record['mean_entropy']:.3f}")
    facts.append(f"{record['tokens']} tokens")
    if record.get("finish_reason") == "length":
        facts.append("cut off")
    notes = []
    compared = record.get("compared", ["", ""])
    if any(compared) and compared != [record["extracted"], record["answer"]]:
        notes.append(f"compared <code>{escape(compared[0])}</code> with <code>{escape(compared[1])}</code>")
    if record.get("detail"):
        notes.append(escape(record["detail"]))
    text = f'<p class="tokens">{escape(record["text"])}</p>'
    body = _tokens(tokens, split, whole=whole) if tokens else text
    uncertain = _most_uncertain(tokens or [])
    if uncertain:
        notes.append(f"least certain tokens: {uncertain}")
    if tokens is None:
        notes.append("this run's release did not record tokens")
    kind = "rollout asked" if asked else "rollout"
    told = escape(f"Sample {record['sample']}, {record['status']}")
    return (
        f'<article class="{kind}" aria-label="{told}" id="sample-{record["sample"]}">'
        f"<header>{''.join(f'<span>{fact}</span>' for fact in facts)}</header>{body}"
        f'<p class="soft">{"; ".join(notes)}</p></article>'
    )


def _tokens(tokens: Sequence[Token], split: Choice | None, *, whole: bool) -> str:
    cuts = {length: number for number, length in enumerate(split.lengths, 1)} if split else {}
    chosen = split.selected if split else None
    own = chosen is not None and split is not None and chosen.sample == split.sample
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
            # The mark stands before the newline that ends the prefix.
            best = own and chosen is not None and chosen.length == place
            label = f"prefix {cut}: {place} tokens{', chosen' if best else ''}"
            mark = f'<span class="cut{" chosen" if best else ""}" title="{label}">{cut}</span>'
            text = text.replace("\n", f"{mark}\n", 1) if "\n" in text else text + mark
        elif seg:
            text = text.replace("\n", "⏎\n", 1)
        parts.append(f'<span class="t {kind}{seg}" title="{title}">{text}</span>')
    more = ""
    if len(shown) < len(tokens):
        more = f' <button class="link" data-whole="1">Show all {len(tokens)} tokens</button>'
    # Not a paragraph: it scrolls, and must be reached by keyboard.
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


def grown_from(prompt_id: str, origin: Origin | None, visit: Visit) -> str:
    """Where a guided group's prefix came from."""
    if not visit.guided:
        return ""
    if not visit.prefix_id:
        return "<p>This group samples the hard prompt again, without a prefix.</p>"
    if origin is None:
        return "<p>This group continues from a prefix whose origin the run folder does not tell.</p>"
    chosen = f"chosen in step {origin.chosen_in}"
    if origin.step is None:
        return f"<p>This group continues from a prefix {chosen}.</p>"
    href = link(prompt_id, step=origin.step, place=origin.place, sample=origin.sample)
    source = f'<a href="{href}">sample {origin.sample} of step {origin.step}</a>'
    return f"<p>This group continues from a prefix of {source}, {chosen}.</p>"


def candidates(choice: Choice) -> str:
    """The prefixes that competed, best first."""
    if not choice.candidates:
        return "<p>No prefix could be stored of this prompt: no rollout has a newline.</p>"
    most = max(max(c.mean_entropy, c.smoothed_entropy) for c in choice.candidates) or 1.0
    rows = "".join(_candidate(candidate, most) for candidate in choice.candidates[:SHOWN_CANDIDATES])
    rest = len(choice.candidates) - SHOWN_CANDIDATES
    more = f'<p class="soft">{rest} more, judged worse.</p>' if rest > 0 else ""
    heads = ["", "tokens", "entropy", "smoothed", "correct", "from", "text"]
    return _table("Candidate prefixes", heads, rows, left=("from", "text")) + more


def _candidate(candidate: Candidate, most: float) -> str:
    origin = "" if candidate.step is None else f"step {candidate.step}, sample {candidate.sample}"
    if candidate.step is None and candidate.prefix_id:
        origin = "not in the folder"
    tried = f"{candidate.successes} of {candidate.rollouts}" if candidate.rollouts else "-"
    text = escape(_lines(candidate.text)) if candidate.prefix_id else "(none: the prompt alone)"
    state = "<strong>chosen</strong>" if candidate.selected else "dropped" if candidate.dropped else ""
    return (
        f'<tr class="{"chosen" if candidate.selected else ""}"><td>{state}</td><td>{candidate.length}</td>'
        f"<td>{_bar(candidate.mean_entropy, most, 'bar raw')}</td>"
        f"<td>{_bar(candidate.smoothed_entropy, most, 'bar')}</td>"
        f'<td>{tried}</td><td class="left">{origin}</td><td class="left mono">{text}</td></tr>'
    )


def _lines(text: str) -> str:
    """A text of several lines in one, with marks where lines end."""
    return text.strip().replace("\n", " ⏎ ")


def _table(label: str, heads: Sequence[str], rows: str, left: Sequence[str]) -> str:
    """A table that scrolls, and can be reached by keyboard to do so."""
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
    prompt_id: str, choice: Choice, grown: Sequence[tuple[Visit, Sequence[dict[str, Any]]]]
) -> str:
    """The groups that went on from the prefix chosen, with what their samples went on with."""
    chosen = choice.selected
    if chosen is None:
        return ""
    title = "<h3>Continuations grown from the chosen prefix</h3>"
    if not choice.continuations:
        return f"{title}<p>None yet: the guided prompt waits in the queue, or left it.</p>"
    parts = []
    for visit, records in grown:
        href = link(prompt_id, step=visit.step, place=visit.place)
        rescued = ": rescued" if visit.correct else ""
        samples = "".join(
            f"<li>{badge(record['status'])}"
            f' <span class="mono">{escape(_after(record, chosen.text))}</span></li>'
            for record in records
        )
        parts.append(
            f'<p><a href="{href}" data-visit="{visit.step}/{visit.place}">Step {visit.step}</a>:'
            f" {visit.correct} of {visit.rollouts} correct{rescued}</p>"
            f'<ul class="grown" tabindex="0" aria-label="Samples of step {visit.step}">{samples}</ul>'
        )
    return title + "".join(parts)


def _after(record: dict[str, Any], prefix: str) -> str:
    """What a rollout goes on with after the prefix."""
    rest = _lines(record["text"].removeprefix(prefix))
    return rest if len(rest) <= CONTINUATION else rest[:CONTINUATION] + "…"


def stored_prefixes(prefixes: Sequence[PrefixCandidate]) -> str:
    """What a live prefix service holds of a prompt."""
    rows = "".join(
        f"<tr><td>{p.length}</td><td>{p.mean_entropy:.3f}</td><td>{p.smoothed_entropy:.3f}</td>"
        f'<td>{p.successes} of {p.rollouts}</td><td class="left mono">{escape(_lines(p.text))}</td></tr>'
        for p in prefixes
    )
    heads = ["tokens", "entropy", "smoothed", "correct", "text"]
    return _table("Prefixes stored now", heads, rows, left=("text",))


WIDTH, HEIGHT, MARGIN = 560, 330, 34


def solution_map(shown: Map, novelties: dict[int, float], prompt_id: str, chosen: int | None) -> str:
    """The map as SVG; every solution is a link to its comparison."""
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
        told = f"Solution {number}" + ("" if novelty is None else f", novelty {novelty:.4f}")
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if number == chosen else ""
        label = ""
        # Of solutions that lie on one another, one label.
        if all(abs(x - a) > 14 or abs(y - b) > 11 for a, b in labelled):
            labelled.append((x, y))
            label = f'<text x="{x + 9:.1f}" y="{y - 7:.1f}" aria-hidden="true">{number}</text>'
        dots.append(
            f'<a href="{link(prompt_id, solution=number)}" data-solution="{number}" aria-label="{told}">'
            f"<title>{told}: {escape(excerpt[:120])}</title>"
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


def _placed(shown: Map) -> list[tuple[float, float]]:
    """Places in the drawing; both components to the same scale."""
    xs, ys = shown.places[:, 0], shown.places[:, 1]
    left, right, low, high = (float(value) for value in (xs.min(), xs.max(), ys.min(), ys.max()))
    wide, high_ = max(right - left, 1e-6), max(high - low, 1e-6)
    scale = min((WIDTH - 2 * MARGIN) / wide, (HEIGHT - 2 * MARGIN) / high_)
    middle = ((left + right) / 2, (low + high) / 2)
    return [
        (WIDTH / 2 + (float(x) - middle[0]) * scale, HEIGHT / 2 - (float(y) - middle[1]) * scale)
        for x, y in zip(xs, ys, strict=True)
    ]


def solutions(rows: Sequence[dict[str, Any]], chosen: int | None) -> str:
    """A table of solutions: when they came, how novel they were, and what was nearest."""
    body = "".join(
        f'<tr class="{"chosen" if row["number"] == chosen else ""}"><td><button class="link"'
        f' data-solution="{row["number"]}" aria-label="Compare solution {row["number"]}">'
        f"{row['number']}</button></td><td>{row['step']}</td><td>{row['sample']}</td>"
        f'<td>{row["novelty"]:.4f}</td><td class="left">{escape(row["nearest"])}</td>'
        f'<td class="left mono">{escape(row["excerpt"])}</td></tr>'
        for row in rows
    )
    heads = ["solution", "step", "sample", "novelty", "nearest when it came", "text"]
    return _table("Solutions", heads, body, left=("nearest when it came", "text"))


def difference(pieces: Sequence[Piece], first: str, second: str) -> str:
    """Two texts as one: what is only in the first struck out, what is only in the second underlined."""
    tags = {"same": ("", ""), "gone": ("<del>", "</del>"), "new": ("<ins>", "</ins>")}
    body = "".join(f"{tags[p.kind][0]}{escape(p.text)}{tags[p.kind][1]}" for p in pieces)
    return (
        f'<p class="soft">From <del>{escape(first)}</del> to <ins>{escape(second)}</ins></p>'
        f'<div class="diff" tabindex="0" role="region" aria-label="Text difference">{body}</div>'
    )


def text(shown: str) -> str:
    """A text as it is."""
    return f'<div class="diff" tabindex="0" role="region" aria-label="Text">{escape(shown)}</div>'
