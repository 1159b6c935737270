"""The pages: a list of prompts or rollouts to search and filter, and a page for each prompt.

NiceGUI keeps the page's state on the server and sends the browser what changes; everything it needs is served
from its package. Lists are paged from the index, so that a page costs the same whatever the run's size. What
shows one prompt is HTML made here (`markup`); clicks in it come back as events that name what was clicked.
"""

import asyncio
from dataclasses import dataclass, replace
from html import escape
from importlib import resources
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from nicegui import app, ui
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

from extra_client import ExtraError
from extra_inspector import diff, markup, prefixes
from extra_inspector.index import Index, Query, Show, Visit
from extra_inspector.memories import LiveMemories, Map, MemoryUnavailable, StoredMemories
from extra_inspector.tokens import Vocabulary

View = Literal["prompts", "rollouts"]
SHOWN: dict[Show, str] = {
    "all": "All",
    "hard": "Hard",
    "rescued": "Rescued",
    "novel": "Most novel",
    "timeouts": "Timeouts",
}
STATUSES = {
    "": "Any verdict",
    **{s: s.capitalize() for s in ("correct", "wrong", "unparseable", "timeout", "error")},
}
#: Seconds between looks for new steps.
LOOK_EVERY = 5.0
#: Solutions that are listed: the latest.
LISTED_SOLUTIONS = 64
#: Groups that grew from a prefix and are listed with their samples.
LISTED_CONTINUATIONS = 3
#: Characters of an excerpt in a list.
EXCERPT = 90

COLUMNS: dict[View, list[dict[str, Any]]] = {
    "prompts": [
        {"name": "prompt", "label": "Prompt", "field": "text", "align": "left", "sortable": True},
        {"name": "answer", "label": "Answer", "field": "answer", "align": "left"},
        {"name": "visits", "label": "Groups", "field": "visits", "sortable": True},
        {"name": "pass_rate", "label": "Correct", "field": "pass_rate", "sortable": True},
        {"name": "hard", "label": "Hard groups", "field": "hard", "sortable": True},
        {"name": "rescued", "label": "Rescued", "field": "rescued", "sortable": True},
        {"name": "novelty", "label": "Largest novelty", "field": "novelty", "sortable": True},
        {"name": "last_step", "label": "Last step", "field": "last_step", "sortable": True},
    ],
    "rollouts": [
        {"name": "prompt", "label": "Prompt", "field": "text", "align": "left"},
        {"name": "step", "label": "Step", "field": "step", "sortable": True},
        {"name": "sample", "label": "Sample", "field": "sample"},
        {"name": "status", "label": "Verdict", "field": "status", "align": "left", "sortable": True},
        {"name": "extracted", "label": "Extracted", "field": "extracted", "align": "left"},
        {"name": "answer", "label": "Answer", "field": "answer", "align": "left"},
        {"name": "rule", "label": "Rule", "field": "rule", "align": "left"},
        {"name": "novelty", "label": "Novelty", "field": "novelty", "sortable": True},
        {"name": "entropy", "label": "Mean entropy", "field": "entropy", "sortable": True},
        {"name": "tokens", "label": "Tokens", "field": "tokens", "sortable": True},
        {"name": "guided", "label": "Guided", "field": "guided", "align": "left"},
    ],
}
ORDERS: dict[View, dict[str, str]] = {
    view: {"": "As suits the filter", **{c["name"]: c["label"] for c in columns if c.get("sortable")}}
    for view, columns in COLUMNS.items()
}
#: Sends the value of the data attribute that a click lands in, and keeps the link from being followed.
CLICKED = """(event) => {{
  const found = event.target.closest("[data-{0}]");
  if (!found || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  emit(found.dataset.{0});
}}"""


@dataclass
class Inspector:
    """What the pages show: a run's index, its tokens, and where its memories are."""

    index: Index
    vocabulary: Vocabulary
    memories: StoredMemories | LiveMemories

    @property
    def title(self) -> str:
        """The run's name."""
        return f"{self.index.folder.path.resolve().name} - extra-rl inspect"

    def add_pages(self) -> None:
        """Registers the pages with NiceGUI."""
        style = (resources.files("extra_inspector") / "inspector.css").read_text(encoding="utf-8")

        @ui.page("/", title=self.title, language="en-US")
        async def explore(view: View = "prompts", show: str = "all", q: str = "", status: str = "") -> None:
            ui.add_css(style)
            ui.colors(primary="#0b5cad")
            await ListPage(self.index, view if view in COLUMNS else "prompts").build(
                Query(
                    search=q,
                    show=cast(Show, show if show in get_args(Show) else "all"),
                    status=status if status in STATUSES else "",
                )
            )

        @ui.page("/prompt/{prompt_id}", title=self.title, language="en-US")
        async def prompt(
            prompt_id: str,
            step: int | None = None,
            place: int | None = None,
            sample: int | None = None,
            solution: int | None = None,
        ) -> None:
            ui.add_css(style)
            ui.colors(primary="#0b5cad")
            await PromptPage(self, prompt_id, sample, solution).build(step, place)

        app.on_startup(self._keep_up_to_date)

    async def _keep_up_to_date(self) -> None:
        async def look() -> None:
            while True:
                await asyncio.to_thread(self.index.update)
                await asyncio.sleep(LOOK_EVERY)

        self._looking = asyncio.create_task(look())


class ListPage:
    """Prompts or rollouts, searched, filtered, sorted, page by page."""

    def __init__(self, index: Index, view: View) -> None:
        self._index = index
        self._view: View = view
        self._asked = 0

    async def build(self, query: Query) -> None:
        """Lays out the page, with the first rows in it."""
        self._query = query
        rows, total = await self._find(query)
        counts = await self._told_counts()
        ui.html('<a class="skip" href="#list">Skip to the list</a>', sanitize=False)
        with ui.element("main").classes("page"):
            with ui.element("div").classes("top"):
                ui.html(f"<h1>{escape(self._index.folder.path.resolve().name)}</h1>", sanitize=False)
                self._counts = ui.label(counts).classes("soft").props('role="status"')
            with ui.element("div").classes("controls").props('role="search"'):
                ui.toggle(
                    {"prompts": "Prompts", "rollouts": "Rollouts"},
                    value=self._view,
                    on_change=self._show_view,
                ).props('no-caps aria-label="What is listed"')
                ui.input(label="Search", value=query.search, on_change=self._search).props(
                    'outlined dense clearable debounce="100" type="search"'
                )
                ui.toggle(dict(SHOWN), value=query.show, on_change=self._filter).props(
                    'no-caps aria-label="Filter"'
                )
                self._status = ui.select(
                    STATUSES, value=query.status, label="Verdict", on_change=self._set_status
                )
                self._status.props("outlined dense options-dense").style("min-width: 9rem")
                self._order = ui.select(
                    ORDERS[self._view], value="", label="Order by", on_change=self._set_order
                )
                self._order.props("outlined dense options-dense").style("min-width: 11rem")
            self._found = ui.label(self._told_found(total)).classes("soft").props('role="status" id="found"')
            self._table = ui.table(
                rows=rows, columns=COLUMNS[self._view], row_key="key", pagination=_pagination(query, total)
            )
            self._table.props('flat dense :rows-per-page-options="[25, 50, 100]" id="list" binary-state-sort')
            self._table.classes("w-full").style("width: 100%")
            self._table.add_slot(
                "body-cell-prompt",
                '<q-td :props="props"><a :href="props.row.href" class="mono">{{ props.value }}</a></q-td>',
            )
            self._table.add_slot(
                "body-cell-status",
                '<q-td :props="props">'
                """<span :class="'badge ' + props.value">{{ props.value }}</span></q-td>""",
            )
            self._table.on("request", self._turn)
        self._status.set_visibility(self._view == "rollouts")
        ui.timer(LOOK_EVERY, self._look)

    async def _look(self) -> None:
        """Shows what has come since."""
        counts = await self._told_counts()
        if self._counts.text != counts:
            self._counts.text = counts
            await self._fill()

    async def _told_counts(self) -> str:
        counts = await asyncio.to_thread(self._index.counts)
        progress = self._index.progress
        text = f"{counts['steps']:,} steps, {counts['prompts']:,} prompts, {counts['rollouts']:,} rollouts"
        if progress.done < progress.total:
            text += f"; indexing: {progress.done} of {progress.total} files"
        return text

    def _told_found(self, total: int) -> str:
        return f"{total:,} {self._view[:-1] if total == 1 else self._view}"

    async def _find(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        if self._view == "prompts":
            rows, total = await asyncio.to_thread(self._index.prompts, query)
            return [_prompt_row(row) for row in rows], total
        rows, total = await asyncio.to_thread(self._index.rollouts, query)
        return [_rollout_row(row) for row in rows], total

    async def _fill(self) -> None:
        """Shows what the query finds; an answer that a later question has overtaken is dropped."""
        self._asked += 1
        asked = self._asked
        rows, total = await self._find(self._query)
        if asked != self._asked:
            return
        self._status.set_visibility(self._view == "rollouts")
        self._table.columns = COLUMNS[self._view]
        self._table.rows = rows
        self._table.pagination = _pagination(self._query, total)
        self._found.text = self._told_found(total)

    async def _change(self, **changes: Any) -> None:
        self._query = replace(self._query, **{"offset": 0, **changes})
        asked = {
            "view": self._view,
            "show": self._query.show,
            "q": self._query.search,
            "status": self._query.status,
        }
        ui.navigate.history.replace("/?" + urlencode({name: value for name, value in asked.items() if value}))
        await self._fill()

    async def _show_view(self, event: ValueChangeEventArguments[Any]) -> None:
        self._view = event.value
        self._order.set_options(ORDERS[self._view], value="")
        await self._change(order="", status="", descending=True)

    async def _search(self, event: ValueChangeEventArguments[Any]) -> None:
        await self._change(search=event.value or "")

    async def _filter(self, event: ValueChangeEventArguments[Any]) -> None:
        await self._change(show=event.value)

    async def _set_status(self, event: ValueChangeEventArguments[Any]) -> None:
        if event.value != self._query.status:
            await self._change(status=event.value or "")

    async def _set_order(self, event: ValueChangeEventArguments[Any]) -> None:
        if (event.value or "") != self._query.order:
            await self._change(order=event.value or "", descending=event.value != "prompt")

    async def _turn(self, event: GenericEventArguments) -> None:
        asked = event.args["pagination"]
        size = asked["rowsPerPage"]
        order = asked["sortBy"] or ""
        same = order == self._query.order and asked["descending"] == self._query.descending
        offset = (asked["page"] - 1) * size if same else 0
        await self._change(offset=offset, limit=size, order=order, descending=bool(asked["descending"]))


def _pagination(query: Query, total: int) -> dict[str, Any]:
    """Quasar's, of a table whose pages come from a server."""
    return {
        "page": query.offset // query.limit + 1,
        "rowsPerPage": query.limit,
        "rowsNumber": total,
        "sortBy": query.order or None,
        "descending": query.descending,
    }


def _prompt_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "key": row["name"],
        "href": markup.link(row["name"]),
        "text": _short(row["text"]),
        "answer": _short(row["answer"], 40),
        "pass_rate": f"{row['correct']} of {row['rollouts']}",
        "novelty": f"{row['novelty']:.4f}",
    }


def _rollout_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "key": row["id"],
        "href": markup.link(row["prompt_id"], step=row["step"], place=row["place"], sample=row["sample"]),
        "text": _short(row["prompt_text"], 60),
        "answer": _short(row["answer"], 30),
        "extracted": _short(row["extracted"], 30),
        "novelty": f"{row['novelty']:.4f}",
        "entropy": f"{row['entropy']:.3f}",
        "guided": ("rescued" if row["rescued"] else "guided") if row["guided"] else "",
    }


def _first_shown(visits: list[Visit], step: int | None, place: int | None) -> Visit:
    """The group asked for, or the one with most to see: the last hard one that something grew from."""
    asked = [v for v in visits if v.step == step and place in (None, v.place)]
    hard = [v for v in visits if v.hard and not v.guided]
    last_guided = max((v.step for v in visits if v.guided), default=0)
    followed = [v for v in hard if v.step < last_guided]
    return (asked or followed or hard or visits)[-1]


def _short(text: str, most: int = EXCERPT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


class PromptPage:
    """One prompt: its groups, the rollouts of one of them, its prefixes, and its memory of solutions."""

    def __init__(
        self, inspector: Inspector, prompt_id: str, sample: int | None, solution: int | None
    ) -> None:
        self._inspector = inspector
        self._index = inspector.index
        self._prompt_id = prompt_id
        self._sample = sample
        self._solution = solution
        self._whole = False
        self._map: Map | None = None
        self._solutions: dict[int, dict[str, Any]] = {}

    async def build(self, step: int | None, place: int | None) -> None:
        """Lays out the page; without a step the one with most to see: the last that was hard, or the last."""
        row = await asyncio.to_thread(self._index.prompt, self._prompt_id)
        self._visits = await asyncio.to_thread(self._index.visits, self._prompt_id)
        with ui.element("main").classes("page"):
            ui.html('<p><a href="/">All prompts and rollouts</a></p>', sanitize=False, tag="nav").props(
                'aria-label="Back"'
            )
            if row is None or not self._visits:
                ui.html(
                    "<h1>No such prompt</h1><p>The run folder tells of no prompt of this name.</p>",
                    sanitize=False,
                )
                return
            self._visit = _first_shown(self._visits, step, place)
            with ui.element("div").classes("stack"):
                self._panel("Prompt", self._about(row))
                with ui.element("div").classes("columns"):
                    with ui.element("div").classes("stack"):
                        self._rollouts = self._region()
                    with ui.element("div").classes("stack"):
                        self._prefixes = self._region()
                        self._memory = self._region()
        await self._show_visit()
        # The map may have to ask a service: what is in the folder is shown first.
        ui.timer(0.01, self._show_memory, once=True)

    def _panel(self, title: str, body: str) -> None:
        with ui.element("section").classes("panel").props(f'aria-label="{title}"'):
            ui.html(body, sanitize=False)

    def _region(self) -> ui.html:
        with ui.element("section").classes("panel"):
            region = ui.html("", sanitize=False)
        region.on("click", self._choose_visit, js_handler=CLICKED.format("visit"))
        region.on("click", self._choose_solution, js_handler=CLICKED.format("solution"))
        region.on("click", self._show_whole, js_handler=CLICKED.format("whole"))
        return region

    def _about(self, row: dict[str, Any]) -> str:
        return (
            "<h1>Prompt</h1><div class='prompt' tabindex='0' role='region' aria-label='Text of the prompt'>"
            f"{escape(row['text'].rstrip())}</div>"
            f"<p>Reference answer <code>{escape(row['answer'])}</code>; {row['correct']} of"
            f" {row['rollouts']} rollouts correct; hard in {row['hard']} of {row['visits']} groups;"
            f" guided groups rescued: {row['rescued']}; largest novelty {row['novelty']:.4f}</p>"
        )

    async def _show_visit(self) -> None:
        visit = self._visit
        records = await asyncio.to_thread(self._index.group, visit.step, visit.place)
        choice = await asyncio.to_thread(prefixes.choice, self._index, self._prompt_id, visit)
        origin = await asyncio.to_thread(prefixes.origin, self._index, self._prompt_id, visit)
        articles = [
            markup.rollout(
                record,
                self._inspector.vocabulary.tokens(record),
                choice if choice and choice.sample == record["sample"] else None,
                asked=record["sample"] == self._sample,
                whole=self._whole,
            )
            for record in records
        ]
        guided = "guided group" if visit.guided else "group"
        heading = f"Rollouts of step {visit.step}: {guided}, {visit.correct} of {visit.rollouts} correct"
        self._rollouts.content = (
            f"<h2>Groups of this prompt</h2>{markup.visits(self._prompt_id, self._visits, visit)}"
            f"<h2 class='next'>{heading}</h2>"
            f"{markup.grown_from(self._prompt_id, origin, visit)}{markup.scale()}{''.join(articles)}"
        )
        body = await self._told_of_prefixes(choice)
        self._prefixes.content = f"<h2>Prefixes in step {visit.step}</h2>{body}"

    async def _told_of_prefixes(self, choice: prefixes.Choice | None) -> str:
        if choice is not None:
            body = await asyncio.to_thread(self._told_of_choice, choice)
        elif self._visit.hard:
            body = (
                "<p>The group was hard, but the run folder tells of no split: the warm-up was not over, "
                "or this run's release did not record it.</p>"
            )
        else:
            body = "<p>The group was not hard: nothing was split.</p>"
        memories = self._inspector.memories
        if isinstance(memories, LiveMemories):
            try:
                stored = await asyncio.to_thread(memories.prefixes, self._prompt_id)
                body += f"<h3>Stored now, by {escape(memories.source)}</h3>"
                body += markup.stored_prefixes(stored) if stored else "<p>None.</p>"
            except ExtraError as error:
                body += f"<p>{escape(memories.source)}: {escape(str(error))}</p>"
        return body

    def _told_of_choice(self, choice: prefixes.Choice) -> str:
        grown = [(v, self._index.group(v.step, v.place)) for v in choice.continuations[:LISTED_CONTINUATIONS]]
        return (
            f"<p>Of the group's rollouts sample {choice.sample} was the most confident: it was split, and "
            "its prefixes joined those known for the prompt. Best first.</p>"
            f"{markup.candidates(choice)}{markup.continuations(self._prompt_id, choice, grown)}"
        )

    async def _show_memory(self) -> None:
        known = await asyncio.to_thread(self._index.solutions, self._prompt_id)
        self._solutions = known
        note = ""
        try:
            texts = {number: record["text"] for number, record in known.items()}
            self._map = await asyncio.to_thread(self._inspector.memories.map, self._prompt_id, texts)
        except (MemoryUnavailable, ExtraError) as error:
            note = f"<p>{escape(str(error))}</p>"
        self._draw_memory(note)

    def _draw_memory(self, note: str = "") -> None:
        known, shown = self._solutions, self._map
        numbers = shown.numbers if shown else list(known)[-LISTED_SOLUTIONS:]
        if self._solution is None and numbers:
            # The most novel has most to tell.
            self._solution = max(
                numbers, key=lambda number: known[number]["novelty"] if number in known else -1
            )
        parts = ["<h2>Memory of correct solutions</h2>"]
        if not known:
            parts.append("<p>No correct solution of this prompt has been found.</p>")
        parts.append(note)
        if shown:
            novelties = {number: known[number]["novelty"] for number in shown.numbers if number in known}
            parts.append(markup.solution_map(shown, novelties, self._prompt_id, self._solution))
            parts.append(
                f'<p class="soft">From {escape(self._inspector.memories.source)}: {len(shown.numbers)} of the'
                f" {len(known)} solutions ever found.</p>"
            )
        if self._solution in known:
            parts.append(self._compared(self._solution))
        rows = [self._solution_row(number, known[number]) for number in numbers if number in known]
        if rows:
            parts.append("<h3>Solutions</h3>" + markup.solutions(rows, self._solution))
        self._memory.content = "".join(parts)

    def _solution_row(self, number: int, record: dict[str, Any]) -> dict[str, Any]:
        _, told = self._nearest(record)
        return {
            "number": number,
            "step": record["step"],
            "sample": record["sample"],
            "novelty": record["novelty"],
            "nearest": told,
            "excerpt": _short(record["text"], 60),
        }

    def _nearest(self, record: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """The record of what a solution was nearest to when it came, and how that is told."""
        if "nearest" not in record:
            return None, "not recorded"
        nearest = record["nearest"]
        if nearest is None:
            return None, "nothing to compare with"
        similarity = f"similarity {nearest['similarity']:.4f}"
        if "sample" in nearest:
            group = self._index.group(record["step"], record["place"])
            sibling = next((r for r in group if r["sample"] == nearest["sample"]), None)
            return sibling, f"sample {nearest['sample']} of its group, {similarity}"
        return self._solutions.get(nearest["solution"]), f"solution {nearest['solution']}, {similarity}"

    def _compared(self, number: int) -> str:
        record = self._solutions[number]
        other, told = self._nearest(record)
        novelty = f"novelty {record['novelty']:.4f} when it came, in step {record['step']}"
        title = f"<h3>Solution {number}: {novelty}</h3>"
        if other is None:
            return f"{title}<p>Nearest: {told}.</p>{markup.text(record['text'])}"
        changed = diff.pieces(other["text"], record["text"])
        same = len(changed) == 1 and changed[0].kind == "same"
        return (
            f"{title}<p>Nearest when it came: {told}{'; the same text' if same else ''}.</p>"
            f"{markup.difference(changed, 'the nearest', f'solution {number}')}"
        )

    async def _choose_visit(self, event: GenericEventArguments) -> None:
        step, place = (int(part) for part in str(event.args).split("/"))
        self._visit = next(v for v in self._visits if (v.step, v.place) == (step, place))
        self._sample, self._whole = None, False
        ui.navigate.history.replace(markup.link(self._prompt_id, step=step, place=place))
        await self._show_visit()

    async def _choose_solution(self, event: GenericEventArguments) -> None:
        self._solution = int(event.args)
        self._draw_memory()

    async def _show_whole(self, _: GenericEventArguments) -> None:
        self._whole = True
        await self._show_visit()
