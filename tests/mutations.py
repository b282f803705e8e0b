"""Mutations of what files hold: values of wrong kinds, and what someone writes who wants to do harm."""

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def harmless(draw: random.Random) -> list[Any]:
    """Values of wrong kinds."""
    deep: Any = 1
    for _ in range(draw.choice([3, 60])):
        deep = [deep] if draw.random() < 0.5 else {"a": deep}
    return [
        None, True, False, -1, 0, 0.5, 10**30, -(10**30), math.nan, math.inf, -math.inf, 1e308, "", " ", "x", "VAE",
        "[bold]x", "x" * 3000, "\x00", "é×…", "{}", "[1, 2", "1e400", [], {}, [[]], [None], [1, "a", None],
        {"class_path": "VAE"}, {"class_path": None}, {"class_path": []}, {"class_path": "", "init_args": 3},
        {"init_args": {}}, {"a": {"b": {"c": 1}}}, deep,
    ]  # fmt: skip


def hostile(draw: random.Random, folder: Path) -> list[Any]:
    """What someone writes who wants a reader to open, fetch, import or run something."""
    paths = [
        "m.yaml", "./m.yaml", "~/m.yaml", f"{folder}/m.yaml", f"file://{folder}/m.yaml", f"local://{folder}/m.yaml",
        "http://127.0.0.1:9/m.yaml", "simplecache::http://127.0.0.1:9/m.yaml", "pipe", "-", "../m.yaml", "/etc/passwd",
    ]  # fmt: skip
    names = ["evil.Evil", "antigravity.fly", "os.system", "subprocess.Popen", "turtle.Turtle", "evil"]
    path, name = draw.choice(paths), draw.choice(names)
    wrapped: list[Any] = [
        {"class_path": name}, {"class_path": name, "init_args": {"args": ["touch", "ran"]}}, {"class_path": path},
        {"config": path}, {"__default_config__": path}, f"{{class_path: {name}}}", f"[{path}]", [path],
        [{"class_path": name}], "!!python/object/apply:os.system ['touch ran']",
        {"class_path": "VAE", "init_args": path}, {path: path},
    ]  # fmt: skip
    # half of all draws are paths and names
    return [*harmless(draw), *paths, *names, *wrapped, path, name, path, name]


def tensors() -> list[Any]:
    """Tensors that are no weights."""
    return [
        torch.zeros(1), torch.zeros(0), torch.full((3,), math.nan), torch.zeros(2, dtype=torch.complex64),
        torch.zeros((), dtype=torch.int64), torch.ones(1).expand(4, 4), torch.zeros(2, 2).to_sparse(), 3 + 4j,
    ]  # fmt: skip


def mutated(good: Any, draw: random.Random, values: list[Any], depth_first: bool = False) -> tuple[Any, str]:
    """A copy of nested dictionaries and lists with one or two places changed, and the changes in words."""
    tree, words = copy.deepcopy(good), []
    for _ in range(draw.choice([1, 1, 1, 2])):
        path = _a_path(tree, draw, depth_first)
        if not path:
            continue
        *above, key = path
        parent = tree
        for step in above:
            parent = parent[step]
        where = "/".join(map(str, path))
        change = draw.choice(["replace"] * 6 + ["delete", "add", "rename"])
        if change == "delete":
            del parent[key]
        elif change == "add" and isinstance(parent, dict):
            name = draw.choice(["config", "extra", "class_path", "init_args", "dict_kwargs", "", "a.b", "m.yaml"])
            parent[name] = copy.deepcopy(draw.choice(values))
            where = f"{where} + {name!r}: {_short(parent[name])}"
        elif change == "rename" and isinstance(parent, dict) and isinstance(key, str):
            parent[key[:-1]] = parent.pop(key)
        else:
            change, parent[key] = "replace", copy.deepcopy(draw.choice(values))
            where = f"{where} = {_short(parent[key])}"
        words.append(f"{change} {where}")
    return tree, "; ".join(words)


def _a_path(tree: Any, draw: random.Random, depth_first: bool) -> list[Any]:
    """The keys that lead to a random place; depth first, every top entry is as likely as every other."""
    if not depth_first:
        paths = list(_paths(tree))
        return draw.choice(paths) if paths else []
    path: list[Any] = []
    while isinstance(tree, dict | list) and tree and (not path or draw.random() < 0.85):
        path.append(draw.choice(list(tree) if isinstance(tree, dict) else range(len(tree))))
        tree = tree[path[-1]]
    return path


def _paths(tree: Any) -> Iterator[list[Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    for key in keys:
        yield [key]
        yield from ([key, *rest] for rest in _paths(tree[key]))


def damaged(text: str, draw: random.Random) -> str:
    """A text with a few characters replaced or inserted."""
    for _ in range(draw.choice([1, 3, 20])):
        position = draw.randrange(len(text))
        text = text[:position] + draw.choice("\t{}[]:-\"'&*!|>%@`#\x00\x85é") + text[position + draw.choice([0, 1]) :]
    return text


def _short(value: Any) -> str:
    words = repr(value).replace("\n", " ")
    return words if len(words) <= 80 else f"{words[:80]}…"
