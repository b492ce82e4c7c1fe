"""What reports are made of: blocks that become one HTML page or Markdown, CSV, tables for a terminal, and the settings of all figures.

Everything is deterministic: the same blocks give the same bytes, nothing is taken from the clock or from a user's Matplotlib settings.
Text is text: it is escaped, and never markup, link or formula. A page is one file, without script, that fetches nothing.

Colours are those of Okabe and Ito, which people with any kind of colour blindness can tell apart, and each has a marker and a line style
of its own. Matplotlib and rich are extras ("study"), imported on use; no window is opened.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from simplicial_reg._files import whole_file

__all__ = [
    "LOOKS",
    "WIDTH",
    "Block",
    "Bullets",
    "Heading",
    "Look",
    "Names",
    "Picture",
    "Pictures",
    "Table",
    "Text",
    "check_matplotlib",
    "csv_text",
    "figure",
    "has_rich",
    "markdown",
    "marked",
    "page",
    "short_name",
    "terminal_table",
    "write",
]

TERMINAL = 100  # characters
LEAST_FIRST = 12  # of them for what names a row
WIDTH = 4.4  # inches: text of 9 points is still 10 pixels high on a phone of 390
LONGEST_NAME = 34  # characters


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    marker: str
    line: Any


LOOKS = (
    Look("#0072B2", "s", (0, (5, 1.5))),
    Look("#D55E00", "^", (0, (3, 1, 1, 1))),
    Look("#009E73", "D", (0, (1, 1))),
    Look("#CC79A7", "v", (0, (8, 2))),
    Look("#E69F00", "P", (0, (4, 1, 1, 1, 1, 1))),
    Look("#56B4E9", "X", (0, (2, 1))),
)

SETTINGS = {
    "svg.hashsalt": "simplicial_reg",  # the ids in the file; otherwise random
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "legend.frameon": False,
}


class Picture(NamedTuple):
    """A figure of a report.

    Attributes:
        name: of its file, without suffix.
        title: of what it is one among its kind: a task, and a variant or measure.
        alt: what it shows, for those who cannot see it.
        svg: the file's content.
    """

    name: str
    title: str
    alt: str
    svg: bytes


@dataclass(frozen=True)
class Heading:
    """A heading of the report; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the row."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Pictures:
    """Figures that stand together."""

    pictures: tuple[Picture, ...]


Block = Heading | Text | Bullets | Table | Pictures


# Markdown


def markdown(blocks: Iterable[Block]) -> str:
    """The report for a repository; its figures are taken to be in ``figures/`` beside it."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {marked(block.text)}"
    if isinstance(block, Text):
        return marked(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {marked(item)}" for item in block.items)
    if isinstance(block, Pictures):
        return "\n\n".join(
            f"{marked(picture.title)}\n\n![{marked(picture.alt)}](figures/{picture.name}.svg)"
            for picture in block.pictures
        )
    rows = [map(marked, block.columns), ["---"] * len(block.columns), *(map(marked, row) for row in block.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def marked(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    Example:
        >>> print(marked("a|b of <x>"))
        a\|b of &lt;x&gt;
    """
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*\[\]|$~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word an underscore is one


# HTML


def page(blocks: Sequence[Block], *, marks: Mapping[str, tuple[str, str]] | None = None, style: str = "") -> str:
    """The report as one HTML file; its title is the first heading.

    Args:
        blocks: what it says.
        marks: the class and the sign of cells that hold a certain text; what is said by a colour is said by the sign as well.
        style: CSS in addition to that of every page.
    """
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    return (
        HEAD.replace("TITLE", html.escape(title)).replace("</style>", f"{style}</style>")
        + "\n".join(_html_block(block, marks or {}) for block in blocks)
        + "\n</main>\n</body>\n</html>\n"
    )


def _html_block(block: Block, marks: Mapping[str, tuple[str, str]]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>\n" + "\n".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Pictures):
        return '<div class="figures">\n' + "\n".join(map(_html_picture, block.pictures)) + "\n</div>"
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in block.columns)
    head = f"<thead><tr>{head}</tr></thead>\n" if any(block.columns) else ""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(_html_cell(cell, marks) for cell in row[1:])
        + "</tr>"
        for row in block.rows
    )
    # The focus lets a keyboard scroll a table that is wider than the screen.
    kind = "table" if any(block.columns) else "table facts"
    region = f'<div class="{kind}" role="region" aria-label="{html.escape(block.name)}" tabindex="0">'
    return f"{region}<table>\n{head}<tbody>\n{rows}\n</tbody></table></div>"


def _html_cell(text: str, marks: Mapping[str, tuple[str, str]]) -> str:
    name, sign = marks.get(text, ("long" if len(text) > 40 else "", ""))
    kind = f' class="{name}"' if name else ""
    return f"<td{kind}>{sign}{html.escape(text)}</td>"


def _html_picture(picture: Picture) -> str:
    # An image, not SVG in the page: the ids of one figure would otherwise be those of the next.
    content = base64.b64encode(picture.svg).decode()
    image = f'<img alt="{html.escape(picture.alt)}" src="data:image/svg+xml;base64,{content}">'
    return f"<figure>{image}<figcaption>{html.escape(picture.title)}</figcaption></figure>"


HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>TITLE</title>
<style>
:root { color-scheme: light; }
body { margin: 0; color: #1a1a1a; background: #fff; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.2rem 16px 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .6rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; border-bottom: 1px solid #d0d0d0; padding-bottom: .2rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { max-width: 46rem; margin: .5rem 0; }
.table { overflow-x: auto; margin: .5rem 0 1rem; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #e5e5e5; vertical-align: top; white-space: nowrap; }
td.long { white-space: normal; min-width: min(16rem, 50vw); max-width: 40rem; overflow-wrap: anywhere; }
.facts td { white-space: normal; min-width: 0; overflow-wrap: anywhere; }
thead th { border-bottom: 1px solid #767676; font-weight: 600; }
tbody th { font-weight: 600; position: sticky; left: 0; background: #fff; }
tbody th { white-space: normal; min-width: 7rem; max-width: 12rem; overflow-wrap: anywhere; }
.better { color: #005a8c; font-weight: 600; }
.worse { color: #a34700; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem 2rem; align-items: start; }
figure { margin: 0; max-width: 30rem; }
img { display: block; width: 100%; max-width: 100%; height: auto; }
figcaption { font-size: .88rem; color: #444; margin-top: .2rem; text-align: center; }
</style>
</head>
<body>
<main>
"""


# Figures


def check_matplotlib() -> None:
    """Raise an ``ImportError`` that names the extra if Matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('a report needs matplotlib: pip install "simplicial_reg[study]"') from error


@contextmanager
def figure(height: float, width: float = WIDTH) -> Iterator[tuple[Any, Callable[[], bytes]]]:
    """A figure with the settings of all of them, and what makes its file, which may be called when the block is left.

    Args:
        height: in inches.
        width: in inches; wider than ``WIDTH`` is for what nobody will read on a phone.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # a name in a script that the font has not
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, content.getvalue
        drawn.savefig(content, format="svg", metadata={"Date": None, "Creator": None})


def short_name(name: str) -> str:
    """A name that fits beside an axis or into a legend, where a leading underscore would hide it."""
    name = " ".join(name.split())
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return f" {name}" if name.startswith("_") else name


# Files


class Names:
    """Names of files: plain letters, and no two the same.

    Example:
        >>> name = Names()
        >>> name("Layers", "a/b"), name("layers", "A b")
        ('layers-a-b', 'layers-a-b-2')
    """

    def __init__(self) -> None:
        self.given: set[str] = set()

    def __call__(self, *parts: str) -> str:
        plain = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")[:40] or "x" for part in parts)
        name, number = plain, 1
        while name in self.given:
            number += 1
            name = f"{plain}-{number}"
        self.given.add(name)
        return name


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file; what is None or NaN is empty.

    Example:
        >>> print(csv_text(("name", "value"), [("a, b", 0.5), ("c", None)]), end="")
        name,value
        "a, b",0.5
        c,
    """
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value is None or value != value else value for value in row] for row in rows])
    return content.getvalue()


# Terminal


def terminal_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    rich: bool | None = None,
) -> str:
    """A table for a terminal, at most 100 columns wide unless all but its first column are wider than that.

    Args:
        title: the line above it.
        columns: their headings.
        rows: text; the first column is the one that is shortened or folded.
        left: columns that are aligned to the left.
        rich: whether rich draws it; if it is installed, where this is None.

    Returns:
        Lines of text without colours, the last one ended.
    """
    draw = _rich_table if (has_rich() if rich is None else rich) else _plain_table
    return draw(title, columns, rows, left)


def has_rich() -> bool:
    """Whether rich is installed."""
    try:
        import rich.table  # noqa: F401
    except ImportError:
        return False
    return True


def _rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text as Words

    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    # Three blanks between columns, as rich has it, or two where the first column would get no room otherwise.
    full = min(widths[0], LEAST_FIRST) + sum(widths[1:]) + 3 * (len(columns) - 1) + 2  # and one at either end
    padding = (0, 1) if full <= TERMINAL else (0, 1, 0, 0)
    grid = Grid(title=Words(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for at, column in enumerate(columns):
        grid.add_column(Words(column), no_wrap=at > 0, overflow="fold", justify="left" if at in left else "right")
    for row in rows:
        grid.add_row(*map(Words, row))  # as text: square brackets are markup in rich
    content = io.StringIO()
    Console(file=content, width=TERMINAL, color_system=None, force_terminal=False, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in content.getvalue().splitlines()).strip("\n") + "\n"


def _plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> str:
    rows = [tuple(" ".join(cell.split()) for cell in row) for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    widths[0] = min(widths[0], TERMINAL - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for row in rows:
        cells = [
            cell[:width].ljust(width) if at in left else cell[:width].rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([title[:TERMINAL], lines[0], "-" * max(map(len, lines)), *lines[1:]]) + "\n"
