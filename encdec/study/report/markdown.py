"""The report as Markdown, with its charts and images as files in a folder beside it."""

import re
from collections.abc import Iterator, Sequence

from encdec.study.report import drawing
from encdec.study.report.document import (
    Block,
    Bullets,
    Code,
    Column,
    Details,
    Document,
    Figure,
    Gallery,
    Row,
    Table,
    Text,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def render(report: Document, folder: str) -> tuple[str, dict[str, bytes]]:
    """The text, and the files that belong into `folder` beside it, by name."""
    found: dict[str, bytes] = {}
    lines = [f"# {_escaped(report.title)}", "", _escaped(report.subtitle), ""]
    for section in report.sections:
        lines += [f"## {_escaped(section.title)}", ""]
        for block in section.blocks:
            lines += [*_lines(block, folder, found), ""]
    return "\n".join(lines).rstrip() + "\n", found


def _lines(block: Block, folder: str, files: dict[str, bytes]) -> Iterator[str]:
    if isinstance(block, Text):
        yield _text(block)
    elif isinstance(block, Bullets):
        yield from (f"- {_text(item)}" for item in block.items)
    elif isinstance(block, Code):
        fence = "```"
        while fence in block.text:
            fence += "`"
        yield from (fence, block.text, fence)
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Figure):
        name = f"{block.name}.svg"
        files[name] = drawing.file(block.svg).encode()
        yield from (f"![{_escaped(block.alt)}]({folder}/{name})", "", f"*{_escaped(block.caption)}*")
    elif isinstance(block, Gallery):
        for picture in block.pictures:
            name = f"{picture.name}.{picture.media_type.rpartition('/')[2]}"
            files[name] = picture.content
            yield from (f"![{_escaped(picture.alt)}]({folder}/{name})", "", f"*{_escaped(picture.caption)}*", "")
    elif isinstance(block, Details):
        yield from (f"<details><summary>{_escaped(block.summary)}</summary>", "")
        for inner in block.blocks:
            yield from _lines(inner, folder, files)
            yield ""
        yield "</details>"


def _text(block: Text) -> str:
    lead = f"**{_escaped(block.lead)}**" if block.lead else ""
    return " ".join(filter(None, (lead, _escaped(block.text))))


def _table(table: Table) -> Iterator[str]:
    yield from (f"*{_escaped(table.caption)}*", "")
    yield _row([_heading(column) for column in table.columns])
    yield _row(["---:" if column.is_number else "---" for column in table.columns])
    for row in [*table.rows, *table.foot]:
        yield _row(_cells(row))


def _heading(column: Column) -> str:
    return _escaped(f"{column.title}, {column.unit}" if column.unit else column.title)


def _cells(row: Row) -> list[str]:
    return [f"**{_escaped(cell.plain)}**" if cell.is_best else _escaped(cell.plain) for cell in row]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split("\n"))).replace("\\<", "&lt;").replace("\\>", "&gt;")
