"""Tables in a terminal's width, in which no number is ever cut; in full where the output goes elsewhere."""

import textwrap
from collections.abc import Sequence

from rich.box import HEAVY_HEAD, Box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_BESIDE = 3  # a column's padding and its line
_NARROWEST = 12  # to which a column of text is folded


def print_table(rows: Sequence[Sequence[str]], text: Sequence[int] = (0,), box: Box = HEAVY_HEAD) -> None:
    """Print a table.

    Args:
        rows: the first one is the heading; what they hold is shown as it is, without rich's markup.
        text: the columns of text, which a narrow terminal folds, the first ones first; the others are numbers.
        box: its lines.
    """
    widths = _widths(rows)
    excess = _total(widths) - (_terminal_width() or _total(widths))
    for i in text:
        narrower = max(min(widths[i], _NARROWEST), widths[i] - max(excess, 0))
        excess -= widths[i] - narrower
        widths[i] = narrower
    table = Table(box=box)
    for i, heading in enumerate(rows[0]):
        table.add_column(Text(heading), justify="left" if i in text else "right", width=widths[i], overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console(width=max(_total(widths), 1)).print(table)


def print_numbers(rows: Sequence[Sequence[str]]) -> None:
    """Print a table of numbers with labels in its first row and column, whole in any terminal.

    Where it is wider than the terminal it is turned round; where that is too wide, too, its columns follow in several
    tables, one below the other.
    """
    width, turned = _terminal_width(), [list(column) for column in zip(*rows, strict=True)]
    if width is None or _total(_widths(rows)) <= width:
        print_table(rows)
    elif _total(_widths(turned)) <= width:
        print_table(turned)
    else:
        for columns in _groups(_widths(rows), width):
            print_table([[row[i] for i in columns] for row in rows])


def print_filled(sentence: str) -> None:
    """Print a sentence, broken at its spaces into lines of the terminal's width, if it goes to a terminal."""
    width = _terminal_width()
    print(sentence if width is None else textwrap.fill(sentence, width, break_long_words=False), flush=True)


def _groups(widths: list[int], width: int) -> list[list[int]]:
    """The columns that fit beside the labels, which are the first column, and may be folded."""
    groups: list[list[int]] = [[0]]
    label = max(min(widths[0], _NARROWEST), min(widths[0], width // 3))
    for i in range(1, len(widths)):
        if len(groups[-1]) > 1 and _total([label, *(widths[j] for j in groups[-1][1:]), widths[i]]) > width:
            groups.append([0])
        groups[-1].append(i)
    return groups


def _terminal_width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere."""
    console = Console()
    return console.width if console.is_terminal else None


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cell_len(line) for row in rows for line in row[i].split("\n")) for i in range(len(rows[0]))]


def _total(widths: Sequence[int]) -> int:
    return sum(width + _BESIDE for width in widths) + 1
