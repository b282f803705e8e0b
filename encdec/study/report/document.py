"""The report as a document of blocks, which HTML and Markdown render alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph; `lead` is its first words, set bold."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Code:
    """Lines that a person may paste into a terminal."""

    text: str


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what it holds.
        unit: of its numbers, or how to read them.
        is_number: whether it is set flush right, in figures of one width.
    """

    title: str
    unit: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: a number to as many digits as its column has, or words; empty where there is nothing.
        spread: what stands behind it, lighter, such as ± 0.3.
        note: what must be known beside it, such as "2 of 3 seeds".
        order: what the column is sorted by; None sorts last.
        is_best: whether it is the best of its column, which is set bold.
    """

    text: str = ""
    spread: str = ""
    note: str = ""
    order: float | None = None
    is_best: bool = False

    @property
    def plain(self) -> str:
        """All of it on one line."""
        return " ".join(part for part in (self.text, self.spread, self.note and f"({self.note})") if part)


Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table; `foot` are rows to compare the others with, which stay below when it is sorted."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        name: of its file, without ending; one of a kind in the report.
        svg: an SVG element, whose colors are the page's.
        alt: what it shows, for those who do not see it.
        caption: the sentence below it.
    """

    name: str
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """An image of pixels: the name of its file, its bytes and type, its size, and what it shows."""

    name: str
    content: bytes
    media_type: str
    size: tuple[int, int]
    alt: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Details:
    """Blocks that are shown on request."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Bullets | Code | Table | Figure | Gallery | Details


@dataclass(frozen=True)
class Section:
    """A section of the report; `anchor` is where links lead."""

    title: str
    anchor: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """The whole report: its title, the line below, and its sections."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=list)
