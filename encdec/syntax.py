"""What a Python file does, apart from how it is written and described."""

import ast
import hashlib
from pathlib import Path


def of_file(path: Path) -> tuple[frozenset[str], str]:
    """The names of the classes that a file defines, and its syntax without comments and docstrings.

    Both are empty where it can't be read as Python: what imports it says so.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset(), ""
    classes = frozenset(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return classes, ast.dump(tree)


def digest(path: Path) -> str:
    """SHA-256 of a file's syntax, in hexadecimal; the same after a change of comments, docstrings or layout alone."""
    return hashlib.sha256(of_file(path)[1].encode("utf-8", "surrogatepass")).hexdigest()


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or another text that does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
