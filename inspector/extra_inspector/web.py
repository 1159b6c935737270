"""The pages: a list of prompts or rollouts to search and filter, and a page for each prompt.

NiceGUI keeps the page's state on the server and sends changes to the browser; all scripts are served from its
package. Lists are paged by the index, so a page costs the same for a run of any size. A prompt's page is HTML
(`markup`); clicks in it arrive as events with the id of the clicked item.
"""

import asyncio
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal, cast, get_args
from urllib.parse import urlencode

from markupsafe import Markup
from nicegui import app, ui
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

from extra_client import ExtraError
from extra_inspector import diff, markup, prefixes
from extra_inspector.imports.run import ImportedRun
from extra_inspector.index import MASKED, GroupSummary, Index, PromptRow, Query, RolloutRow, Show, Solution
from extra_inspector.memories import LiveMemories, SolutionMap, StoredMemories
from extra_inspector.memory_file import MemoryUnavailable
from extra_inspector.tokens import Vocabulary
from extra_rl.config_file import ConfigError
from extra_rl.vocabulary import VerdictStatus
from extra_trainer.runs.schema import RolloutRecord

View = Literal["prompts", "rollouts"]
SHOWN: dict[Show, str] = {
    "all": "All",
    "hard": "Hard",
    "rescued": "Rescued",
    "novel": "Most novel",
    "suspicious": "Suspicious",
    "undecided": "Undecided",
}
STATUSES = {
    "": "Any verdict",
    **{status.value: status.capitalize() for status in VerdictStatus},
    MASKED: "Masked",
}
#: Shown for a prompt that a log does not hold.
NO_PROMPT = "(not recorded)"
#: Seconds between updates with new steps.
UPDATE_SECONDS = 5.0
#: Most solutions in the table; the latest are listed.
LISTED_SOLUTIONS = 64
#: Most groups that continued from a prefix and are listed with their samples.
LISTED_CONTINUATIONS = 3
#: Most characters of an excerpt in a list.
EXCERPT_CHARACTERS = 90

COLUMNS: dict[View, list[dict[str, Any]]] = {
    "prompts": [
        {"name": "prompt", "label": "Prompt", "field": "text", "align": "left", "sortable": True},
        {"name": "answer", "label": "Answer", "field": "answer", "align": "left"},
        {"name": "groups", "label": "Groups", "field": "groups", "sortable": True},
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
    view: {"": "Default for the filter", **{c["name"]: c["label"] for c in columns if c.get("sortable")}}
    for view, columns in COLUMNS.items()
}
#: Click handler in the browser: emits the value of a data attribute instead of following the link.
CLICKED = """(event) => {{
  const found = event.target.closest("[data-{0}]");
  if (!found || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  emit(found.dataset.{0});
}}"""


@dataclass
class Inspector:
    """The data of the pages: a run's index, its vocabulary and its memories."""

    index: Index
    vocabulary: Vocabulary
    memories: StoredMemories | LiveMemories
    #: Where the run comes from, if another trainer logged it.
    imported: ImportedRun | None = None
    #: Why the last update of the index failed, "" if it did not.
    problem: str = ""

    @property
    def title(self) -> str:
        """The run's name."""
        return f"{self.index.folder.path.resolve().name} - extra-rl inspect"

    def add_pages(self) -> None:
        """Register the pages with NiceGUI."""
        style = (resources.files("extra_inspector") / "inspector.css").read_text(encoding="utf-8")

        @ui.page("/", title=self.title, language="en-US")
        async def explore(view: View = "prompts", show: str = "all", q: str = "", status: str = "") -> None:
            ui.add_css(style)
            ui.colors(primary="#0b5cad")
            await ListPage(self, view if view in COLUMNS else "prompts").build(
                Query(
                    search=q,
                    show=cast(Show, show if show in get_args(Show) else "all"),
                    status=status if status in STATUSES else "",
                )
            )

        @ui.page("/prompt/{prompt_id:path}", title=self.title, language="en-US")
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
        async def update() -> None:
            while True:
                try:
                    if self.imported is not None:
                        await asyncio.to_thread(self.imported.update)
                    await asyncio.to_thread(self.index.update)
                    self.problem = ""
                except (ConfigError, ExtraError) as error:
                    self.problem = str(error)
                await asyncio.sleep(UPDATE_SECONDS)

        # Kept here: asyncio itself holds only a weak reference to a task.
        self._updates = asyncio.create_task(update())


class ListPage:
    """The list of prompts or rollouts: searched, filtered, sorted, page by page."""

    def __init__(self, inspector: Inspector, view: View) -> None:
        self._inspector = inspector
        self._index = inspector.index
        self._view: View = view
        #: Number of the latest query.
        self._latest = 0

    async def build(self, query: Query) -> None:
        """Lay out the page, with the first rows in it."""
        self._query = query
        rows, total = await self._find(query)
        counts = await self._counts_text()
        ui.html('<a class="skip" href="#list">Skip to the list</a>', sanitize=False)
        with ui.element("main").classes("page"):
            with ui.element("div").classes("top"):
                ui.html(markup.heading(self._index.folder.path.resolve().name), sanitize=False)
                self._counts = ui.label(counts).classes("soft").props('role="status"')
            with ui.element("div").classes("controls").props('role="search"'):
                ui.toggle(
                    {"prompts": "Prompts", "rollouts": "Rollouts"},
                    value=self._view,
                    on_change=self._show_view,
                ).props('no-caps aria-label="List"')
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
            self._found = ui.label(self._found_text(total)).classes("soft").props('role="status" id="found"')
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
                """<span :class="'badge ' + props.value">{{ props.value }}</span>"""
                """ <span v-if="props.row.masked" class="badge">masked</span></q-td>""",
            )
            self._table.on("request", self._change_page)
        self._status.set_visibility(self._view == "rollouts")
        ui.timer(UPDATE_SECONDS, self._refresh)

    async def _refresh(self) -> None:
        """Show rollouts that were indexed since."""
        counts = await self._counts_text()
        if self._counts.text != counts:
            self._counts.text = counts
            await self._fill()

    async def _counts_text(self) -> str:
        counts = await asyncio.to_thread(self._index.counts)
        progress = self._index.progress
        text = f"{counts['steps']:,} steps, {counts['prompts']:,} prompts, {counts['rollouts']:,} rollouts"
        if progress.done < progress.total:
            text += f"; indexing: {progress.done} of {progress.total} files"
        return f"{text}; {self._inspector.problem}" if self._inspector.problem else text

    def _found_text(self, total: int) -> str:
        return f"{total:,} {self._view[:-1] if total == 1 else self._view}"

    async def _find(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        if self._view == "prompts":
            prompts, total = await asyncio.to_thread(self._index.prompts, query)
            return [_prompt_cells(row) for row in prompts], total
        rollouts, total = await asyncio.to_thread(self._index.rollouts, query)
        return [_rollout_cells(row) for row in rollouts], total

    async def _fill(self) -> None:
        """Show the result of the query, unless a later query was made meanwhile."""
        self._latest += 1
        number = self._latest
        rows, total = await self._find(self._query)
        if number != self._latest:
            return
        self._status.set_visibility(self._view == "rollouts")
        self._table.columns = COLUMNS[self._view]
        self._table.rows = rows
        self._table.pagination = _pagination(self._query, total)
        self._found.text = self._found_text(total)

    async def _change(self, **changes: Any) -> None:
        self._query = replace(self._query, **{"offset": 0, **changes})
        parameters = {
            "view": self._view,
            "show": self._query.show,
            "q": self._query.search,
            "status": self._query.status,
        }
        given = {name: value for name, value in parameters.items() if value}
        ui.navigate.history.replace("/?" + urlencode(given))
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

    async def _change_page(self, event: GenericEventArguments) -> None:
        pagination = event.args["pagination"]
        size = pagination["rowsPerPage"]
        order = pagination["sortBy"] or ""
        descending = bool(pagination["descending"])
        same = order == self._query.order and descending == self._query.descending
        offset = (pagination["page"] - 1) * size if same else 0
        await self._change(offset=offset, limit=size, order=order, descending=descending)


def _pagination(query: Query, total: int) -> dict[str, Any]:
    """Return the pagination of a Quasar table whose pages come from a server."""
    return {
        "page": query.offset // query.limit + 1,
        "rowsPerPage": query.limit,
        "rowsNumber": total,
        "sortBy": query.order or None,
        "descending": query.descending,
    }


def _prompt_cells(row: PromptRow) -> dict[str, Any]:
    return {
        "key": row.prompt_id,
        "href": markup.link(row.prompt_id),
        "text": _short(row.text) or NO_PROMPT,
        "answer": _short(row.answer, 40),
        "groups": row.groups,
        "pass_rate": f"{row.correct} of {row.rollouts}" if row.verdicts else markup.MISSING,
        "hard": row.hard,
        "rescued": row.rescued,
        "novelty": markup.number(row.novelty, ".4f"),
        "last_step": row.last_step,
    }


def _rollout_cells(row: RolloutRow) -> dict[str, Any]:
    return {
        "key": row.id,
        "href": markup.link(row.prompt_id, step=row.step, place=row.place, sample=row.sample),
        "text": _short(row.prompt_text, 60) or NO_PROMPT,
        "step": row.step,
        "sample": row.sample,
        "status": row.status or markup.MISSING,
        "extracted": _short(row.extracted, 30),
        "answer": _short(row.answer, 30),
        "rule": row.rule,
        "novelty": markup.number(row.novelty, ".4f"),
        "entropy": markup.number(row.entropy, ".3f"),
        "tokens": markup.number(row.tokens, "d"),
        "guided": ("rescued" if row.rescued else "guided") if row.guided else "",
        "masked": row.masked,
    }


def _first_shown(groups: list[GroupSummary], step: int | None, place: int | None) -> GroupSummary:
    """Return the group of `step` and `place`; by default the last hard one with guided groups after it."""
    requested = [g for g in groups if g.step == step and place in (None, g.place)]
    hard = [g for g in groups if g.hard and not g.guided]
    last_guided = max((g.step for g in groups if g.guided), default=0)
    followed = [g for g in hard if g.step < last_guided]
    return (requested or followed or hard or groups)[-1]


def _short(text: str, most: int = EXCERPT_CHARACTERS) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


class PromptPage:
    """The page of one prompt: its groups, the rollouts of one group, its prefixes and its solutions."""

    def __init__(
        self, inspector: Inspector, prompt_id: str, sample: int | None, solution: int | None
    ) -> None:
        self._inspector = inspector
        self._index = inspector.index
        self._imported = inspector.imported
        self._prompt_id = prompt_id
        self._sample = sample
        self._solution = solution
        self._whole = False
        self._map: SolutionMap | None = None
        self._solutions: dict[int, Solution] = {}

    async def build(self, step: int | None, place: int | None) -> None:
        """Lay out the page, with the group of `step` and `place`, or without a step a group of interest."""
        row, self._groups = await asyncio.to_thread(self._index.prompt_and_groups, self._prompt_id)
        with ui.element("main").classes("page"):
            ui.html('<p><a href="/">All prompts and rollouts</a></p>', sanitize=False, tag="nav").props(
                'aria-label="Back"'
            )
            if row is None or not self._groups:
                ui.html(markup.no_prompt(), sanitize=False)
                return
            self._group = _first_shown(self._groups, step, place)
            with ui.element("div").classes("stack"):
                self._panel("Prompt", markup.about(row))
                with ui.element("div").classes("columns"):
                    with ui.element("div").classes("stack"):
                        self._rollouts = self._region()
                    with ui.element("div").classes("stack"):
                        # Other trainers have neither prefixes nor a memory.
                        if self._imported is None:
                            self._prefixes = self._region()
                            self._memory = self._region()
                        self._answers = self._region()
        await self._show_group()
        if self._imported is None:
            # The map may need a service's answer: the content of the folder is shown first.
            ui.timer(0.01, self._show_memory, once=True)

    def _panel(self, title: str, body: str) -> None:
        with ui.element("section").classes("panel").props(f'aria-label="{title}"'):
            ui.html(body, sanitize=False)

    def _region(self) -> ui.html:
        with ui.element("section").classes("panel"):
            region = ui.html("", sanitize=False)
        region.on("click", self._choose_group, js_handler=CLICKED.format("group"))
        region.on("click", self._choose_solution, js_handler=CLICKED.format("solution"))
        region.on("click", self._show_whole, js_handler=CLICKED.format("whole"))
        region.on("click", self._score, js_handler=CLICKED.format("score"))
        return region

    async def _show_group(self) -> None:
        group = self._group
        records = await asyncio.to_thread(self._index.group, group.step, group.place)
        choice = await asyncio.to_thread(prefixes.choice, self._index, self._prompt_id, group)
        origin = await asyncio.to_thread(prefixes.origin, self._index, self._prompt_id, group)
        views = [
            markup.rollout_view(
                record,
                self._inspector.vocabulary.tokens(record),
                choice if choice and choice.sample == record.sample else None,
                highlighted=record.sample == self._sample,
                whole=self._whole,
            )
            for record in records
        ]
        self._rollouts.content = markup.groups_panel(
            self._prompt_id,
            self._groups,
            group,
            origin,
            views,
            can_score=self._imported is not None and self._imported.scores,
        )
        wrong = await asyncio.to_thread(self._index.wrong_answers, self._prompt_id)
        self._answers.content = markup.answers_panel(wrong)
        if self._imported is not None:
            return
        grown = await asyncio.to_thread(self._grown, choice)
        stored = await asyncio.to_thread(self._stored)
        self._prefixes.content = markup.prefixes_panel(self._prompt_id, group, choice, grown, stored)

    def _grown(self, choice: prefixes.Choice | None) -> list[tuple[GroupSummary, list[RolloutRecord]]]:
        """Return the first groups that continued from the chosen prefix, with their rollouts."""
        listed = choice.continuations[:LISTED_CONTINUATIONS] if choice else ()
        return [(group, self._index.group(group.step, group.place)) for group in listed]

    def _stored(self) -> markup.Stored | None:
        """Return the prefixes that a live service stores now; None without a service."""
        memories = self._inspector.memories
        if not isinstance(memories, LiveMemories):
            return None
        try:
            return markup.Stored(memories.source, memories.prefixes(self._prompt_id))
        except ExtraError as error:
            return markup.Stored(memories.source, problem=str(error))

    async def _show_memory(self) -> None:
        known = await asyncio.to_thread(self._index.solutions, self._prompt_id)
        self._solutions = known
        problem = ""
        try:
            texts = {number: solution.rollout.text for number, solution in known.items()}
            self._map = await asyncio.to_thread(self._inspector.memories.map, self._prompt_id, texts)
        except (MemoryUnavailable, ExtraError) as error:
            problem = str(error)
        self._draw_memory(problem)

    def _draw_memory(self, problem: str = "") -> None:
        known, shown = self._solutions, self._map
        numbers = shown.numbers if shown else list(known)[-LISTED_SOLUTIONS:]
        if self._solution is None and numbers:
            # By default the most novel.
            self._solution = max(numbers, key=lambda number: self._novelty(number) or -1.0)
        drawn = None
        if shown:
            measured = {number: self._novelty(number) for number in shown.numbers}
            novelties = {number: novelty for number, novelty in measured.items() if novelty is not None}
            drawn = markup.solution_map(shown, novelties, self._prompt_id, self._solution)
        self._memory.content = markup.memory_panel(
            len(known) if self._index.complete() else None,
            problem,
            drawn,
            len(shown.numbers) if shown else 0,
            self._inspector.memories.source,
            self._compared(self._solution) if self._solution in known else None,
            [self._solution_row(number, known[number]) for number in numbers if number in known],
            self._solution,
        )

    def _novelty(self, number: int) -> float | None:
        """Return the novelty of a solution when it came, None if that is not in the folder."""
        solution = self._solutions.get(number)
        return solution.rollout.novelty if solution else None

    def _solution_row(self, number: int, solution: Solution) -> markup.SolutionRow:
        _, nearest = self._nearest(solution)
        record = solution.rollout
        excerpt = _short(record.text, 60)
        return markup.SolutionRow(number, solution.step, record.sample, record.novelty, nearest, excerpt)

    def _nearest(self, solution: Solution) -> tuple[RolloutRecord | None, str]:
        """Return a solution's nearest neighbour when it came, None if not in the folder, and its name."""
        nearest = solution.rollout.nearest
        if nearest is None:
            return None, "nothing to compare with"
        similarity = f"similarity {nearest.similarity:.4f}"
        if nearest.solution is None and nearest.sample is None:
            return None, f"a rollout of another group of this prompt, {similarity}"
        if nearest.solution is None:
            group = self._index.group(solution.step, solution.rollout.group)
            sibling = next((rollout for rollout in group if rollout.sample == nearest.sample), None)
            return sibling, f"sample {nearest.sample} of its group, {similarity}"
        earlier = self._solutions.get(nearest.solution)
        return earlier.rollout if earlier else None, f"solution {nearest.solution}, {similarity}"

    def _compared(self, number: int) -> Markup:
        solution = self._solutions[number]
        record = solution.rollout
        other, name = self._nearest(solution)
        pieces = None if other is None else diff.pieces(other.text, record.text)
        return markup.compared(number, solution.step, record, name, pieces)

    async def _choose_group(self, event: GenericEventArguments) -> None:
        step, place = (int(part) for part in str(event.args).split("/"))
        self._group = next(g for g in self._groups if (g.step, g.place) == (step, place))
        self._sample, self._whole = None, False
        ui.navigate.history.replace(markup.link(self._prompt_id, step=step, place=place))
        await self._show_group()

    async def _choose_solution(self, event: GenericEventArguments) -> None:
        self._solution = int(event.args)
        self._draw_memory()

    async def _show_whole(self, _: GenericEventArguments) -> None:
        self._whole = True
        await self._show_group()

    async def _score(self, event: GenericEventArguments) -> None:
        """Compute the entropies of the group that is shown."""
        step, place = (int(part) for part in str(event.args).split("/"))
        assert self._imported is not None
        try:
            await asyncio.to_thread(self._imported.score, step, place)
            await asyncio.to_thread(self._index.update)
        except (ConfigError, ExtraError) as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        await self._show_group()
