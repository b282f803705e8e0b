"""Imports run one way, package by package: types ← objectives ← networks, data ← training ← paradigms ← … ← cli."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "encdec"
LAYERS = (
    ("types", "messages", "text", "tables", "copyable", "formats"),
    ("private", "requeue", "signatures"),
    ("files", "shipped", "syntax"),
    ("objectives",),
    ("networks", "data"),
    ("training",),
    ("paradigms",),
    ("plugins",),
    ("evaluation",),
    ("runs",),
    ("callbacks",),
    ("api",),
    ("study",),
    ("cli",),
    ("testing", "__main__"),
)
"""Packages and the modules beside them: each imports from the rows above its own."""
ROW = {part: row for row, parts in enumerate(LAYERS) for part in parts}


def imports(path: Path) -> set[str]:
    """The parts of encdec that a file imports at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "encdec":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        assert imports(path) == set(), "`import encdec` must stay instant"
        return
    assert part in ROW, f"give {part} a row in this test"
    for other in imports(path) - {part}:
        assert ROW[other] < ROW[part], f"{part} must not import {other}"
