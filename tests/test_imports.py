"""Imports run one way: types ← losses, networks, data ← paradigms ← callbacks ← cli."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "encdec"
LAYERS = {
    "types": 0,
    "noise": 0,
    "commands": 0,
    "copyable": 0,
    "text": 0,
    "compare": 2,
    "tables": 1,
    "streams": 0,
    "files": 1,
    "kernels": 0,
    "losses": 1,
    "optimizers": 1,
    "networks": 1,
    "quiet": 1,
    "schedules": 1,
    "observations": 2,
    "metrics": 2,
    "pictures": 2,
    "data": 2,
    "floors": 3,
    "paradigms": 4,
    "plugins": 5,
    "errors": 6,
    "evaluation": 6,
    "loops": 7,
    "signals": 7,
    "arguments": 12,
    "constructors": 1,
    "settings": 7,
    "trainer_flags": 6,
    "trust": 1,
    "build": 6,
    "run_config": 11,
    "checkpoint_contents": 5,
    "training_state": 6,
    "checkpoints": 7,
    "exports": 8,
    "identity": 7,
    "history": 8,
    "moved": 8,
    "runs": 9,
    "starts": 10,
    "callbacks": 10,
    "cli": 13,
    "testing": 13,
    "__main__": 14,
}


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
    assert part in LAYERS, f"give {part} a layer in this test"
    for other in imports(path) - {part}:
        assert LAYERS[other] < LAYERS[part], f"{part} must not import {other}"
