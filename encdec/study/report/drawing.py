"""Charts by matplotlib as SVG with repeatable bytes, in the colors of the page that they stand in."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, WITH, WITHOUT = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
"""Stand-ins, which `element` replaces by variables of the page and `file` by colors on white."""
_VARIABLES = {
    INK: ("currentColor", "#1b1f24"),
    MUTED: ("var(--muted)", "#636b74"),
    GRID: ("var(--line)", "#d9dde1"),
    WITH: ("var(--with)", "#1f6fb2"),
    WITHOUT: ("var(--without)", "#c2571a"),
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the page's font
    "svg.hashsalt": "encdec",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.facecolor": "none",
    "path.simplify": True,
}


class Margins(NamedTuple):
    """Inches around axes and between them; they are given, because to measure texts takes most of a chart's time."""

    left: float
    bottom: float
    right: float = 0.15
    top: float = 0.3
    across: float = 0.0
    down: float = 0.0


@contextmanager
def canvas(
    width: float, height: float, margins: Margins, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of a size in inches with axes, in the report's style, whatever matplotlib is set to elsewhere."""
    defaults: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    with matplotlib.rc_context({name: defaults[name] for name in defaults if "backend" not in name} | _STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False)
        inner_width = (width - margins.left - margins.right - (columns - 1) * margins.across) / columns
        inner_height = (height - margins.top - margins.bottom - (rows - 1) * margins.down) / rows
        figure.subplots_adjust(
            left=margins.left / width,
            right=1 - margins.right / width,
            bottom=margins.bottom / height,
            top=1 - margins.top / height,
            wspace=margins.across / inner_width,
            hspace=margins.down / inner_height,
        )
        yield figure, list(axes.flat)


def element(figure: Figure) -> str:
    """A figure as an SVG element for a page whose policy allows no inline styles: attributes and variables alone."""
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), text)
    text = re.sub(
        r'<g id="[a-zA-Z]+[a-zA-Z0-9]*(?:_\d+|\.[a-z]+)*">', "<g>", text
    )  # names that several charts would share
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening, text, count=1)
    text = text.replace("xlink:href", "href")
    # coordinates to a hundredth of a point; what stands between tags is the chart's own text
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    for stand_in, (variable, _) in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def file(svg: str) -> str:
    """An SVG element as a file that stands alone, on white."""
    for variable, color in _VARIABLES.values():
        svg = svg.replace(variable, color)
    return (
        svg.replace(
            "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="Helvetica, Arial, sans-serif" ', 1
        ).replace(">", '>\n<rect width="100%" height="100%" fill="#ffffff"/>', 1)
        + "\n"
    )


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def _opening(found: re.Match[str]) -> str:
    _, _, width, height = found[1].split()
    return (
        f'<svg viewBox="{found[1]}" width="{width}" height="{height}" '
        'stroke-linejoin="round" stroke-linecap="butt" fill="none">'
    )


def _attributes(style: str) -> str:
    """`fill: none; font: 9px sans-serif` as presentation attributes, which a policy against inline styles lets in."""
    found = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            found.append(f'font-size="{size[1] if size else 10}"')
            if "bold" in value or "700" in value:
                found.append('font-weight="700"')
        elif name not in ("font-family", "-inkscape-font-specification"):
            found.append(f'{name}="{value}"')
    return " " + " ".join(found) if found else ""
