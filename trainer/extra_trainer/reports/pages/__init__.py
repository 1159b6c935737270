"""Self-contained pages: sections of figures and tables, in one file that needs no network.

Plotly's library, which is part of the file, draws the figures in the colours of a light or a dark screen.
Each figure has a table and a descriptive sentence, so that a screen reader can read the page; everything can
be reached by keyboard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from extra_trainer.reports.figures import Figure


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    figures: Sequence[Figure]
    text: str = ""


def page(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    commands: Sequence[str] = (),
    arms: Sequence[str] = (),
    foot: str = "",
) -> str:
    """Return the page's HTML.

    Args:
        title: Title and heading.
        sections: Its parts.
        lead: Paragraph under the title.
        commands: Commands that made the data, shown under the lead.
        arms: Arms that a reader can hide in the figures.
        foot: Last line of the page.
    """
    environment = Environment(
        loader=PackageLoader("extra_trainer.reports", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plot"] = _plot
    plots = any(figure.data for section in sections for figure in section.figures)
    return environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        lead=lead,
        commands=commands,
        arms=arms,
        foot=foot,
        style=_part("report.css"),
        plotly=Markup(get_plotlyjs()) if plots else "",
        script=_part("report.js"),
    )


def _part(name: str) -> Markup:
    return Markup((resources.files(__name__) / name).read_text(encoding="utf-8"))


def _plot(figure: Figure) -> Markup:
    """Return the figure's data, escaped for a script element."""
    text = json.dumps({"data": figure.data, "layout": figure.layout}, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
