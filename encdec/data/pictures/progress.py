"""How far the reading of pictures is."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def tracked(items: Iterable[T], words: str, total: int | None = None) -> Iterator[T]:
    """Items with a bar that goes away at their end; nothing is printed where the output is no terminal or notebook.

    Args:
        items: to go through.
        words: what is done with them.
        total: how many there are, where they can't be counted.
    """
    console = Console()
    shown = console.is_terminal or console.is_jupyter
    yield from track(items, words, total=total, transient=True, disable=not shown, console=console)
