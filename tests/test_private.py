"""Private names of Lightning, jsonargparse and torch stand in one file, and what replaces each of them works."""

import argparse
import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.optim.lr_scheduler import ConstantLR, SequentialLR

from encdec import private
from encdec.cli.parser import Parser
from encdec.training.schedules import RunLength, check_length
from encdec.types import UserError
from tests.conftest import ROOT

PRIVATE = Path("encdec/private.py")
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}
"""Documented, though they begin with an underscore: of named tuples, and os._exit."""
MOST = {PRIVATE: 5, Path("encdec/paradigms/codes.py"): 2}
"""How many there may be in each file, beside names that stand as text; torch has `_save_to_state_dict` and its like for
modules to override."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def sources() -> dict[Path, ast.Module]:
    paths = [path for folder in ("encdec", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}


def bound(tree: ast.Module) -> set[str]:
    """The names that a file makes: functions, classes, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def used(tree: ast.Module, ours: set[str]) -> list[str]:
    """The private names of others that a file uses: imports, attributes of what is not `self`, and names as text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            found += [name for module in modules for name in module.split(".") if is_private(name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            is_parents = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if is_parents or (not is_own and node.attr not in ours):
                found.append(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            texts = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
            found += [text for text in texts if is_private(str(text)) and text not in ours]
    return found


def test_private_names_stand_in_one_file_and_become_no_more() -> None:
    trees = sources()
    ours = set().union(*map(bound, trees.values()))
    found = {path: names for path, tree in trees.items() if (names := used(tree, ours))}
    assert PRIVATE in found
    for path, names in found.items():
        assert len(names) <= MOST.get(path, 0), f"{path} uses {dict(Counter(names))}: is there no public way?"


@pytest.mark.parametrize(
    "code",
    ["from torch._dynamo import config", "import torch._C", "trainer._results", "trainer.a._b()", "super()._get(1)",
     "getattr(trainer, '_results')", "from torch import _assert"],
)  # fmt: skip
def test_the_scan_finds(code: str) -> None:
    assert len(used(ast.parse(code), {"_get"})) == 1


@pytest.mark.parametrize("code", ["self._mine", "model._mine", "self.__dict__", "batch._replace(x=1)", "os._exit(1)"])
def test_the_scan_leaves_alone(code: str) -> None:
    assert used(ast.parse(code), {"_mine"}) == []


# ---------------------------------------------------------------------- without the names


class Nameless:
    """Another version of a library, whose object lacks a name."""

    def __init__(self, of: object, *names: str) -> None:
        self._of, self._names = of, names

    def __getattr__(self, name: str) -> object:
        if name in self._names:
            raise AttributeError(name)
        return getattr(self._of, name)


@pytest.mark.parametrize("name", ["_add_signature_parameter", "_create_group_if_requested"])
def test_a_parser_that_would_open_files_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Parser()
    owner = next(cls for cls in LightningArgumentParser.__mro__ if name in vars(cls))
    monkeypatch.delattr(owner, name)
    with pytest.raises(UserError, match=f"no {name}, by which encdec keeps configs from opening files"):
        Parser()


def test_keys_of_a_parser_and_its_commands() -> None:
    parser, below = argparse.ArgumentParser(), argparse.ArgumentParser()
    parser.add_argument("--name")
    below.add_argument("--beta")
    commands = parser.add_subparsers(dest="command")
    commands.choices["fit"] = below
    assert private.keys(parser) == ["name", "command", "beta"]
    assert private.keys(Nameless(parser, "_actions")) == []  # type: ignore[arg-type]


def sequence() -> SequentialLR:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    return SequentialLR(optimizer, [ConstantLR(optimizer, total_iters=n) for n in (3, 4, 90)], [3, 7])


def test_parts_and_milestones_of_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, run = sequence(), RunLength(steps=20, epochs=2)
    assert [part.total_iters for part in private.parts(schedule)] == [3, 4, 90]  # type: ignore[attr-defined]
    assert private.milestones(schedule) == [3, 7]
    with pytest.raises(UserError, match="total_iters = 90, so it is longer than its phase"):
        check_length(schedule, "step", run)
    state = schedule.state_dict()
    for name in ("_schedulers", "_milestones"):
        monkeypatch.delattr(schedule, name)
    monkeypatch.setattr(schedule, "state_dict", lambda: state)
    assert private.parts(schedule) == []
    assert private.milestones(schedule) == [3, 7]
    check_length(schedule, "step", run)
    with pytest.raises(UserError, match="milestones = 7"):
        check_length(schedule, "step", RunLength(steps=5, epochs=1))
    state.clear()
    assert private.milestones(schedule) == []
    check_length(schedule, "step", run)


def test_the_observer_of_processes_is_replaced_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_launch_process_observer"

    def observer() -> object:
        return getattr(subprocess_script, name, None)

    def watch(children: list[object]) -> None: ...

    before = observer()
    assert before is not None
    with private.observing(watch):
        assert observer() is watch
    assert observer() is before
    monkeypatch.delattr(subprocess_script, name)
    with private.observing(watch):
        assert observer() is None
    assert observer() is None
