"""Reports as `test` writes them, for the tests of `compare`."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encdec.cli import compare

Capture = pytest.CaptureFixture[str]


def report_of(name: str, seed: int = 0, /, mse: float = 0.1, **model: Any) -> dict[str, Any]:
    """A report as `test` writes them, of a run of 10 epochs."""
    return {
        "format": 2, "name": name, "paradigm": "VAE", "seed": seed, "checkpoint": "last.ckpt", "step": 110,
        "data": {"class": "Digits", "fingerprint": "6052a675"}, "precision": "32-true", "feature_space": "a CNN",
        "versions": {"encdec": "0.1.0", "torch": "2.15.0"}, "settings": {"num_images": 100, "cache_dir": None},
        "config": {
            "seed_everything": seed, "name": name, "images": {"num_images": 16},
            "trainer": {"max_epochs": 10, "devices": "1", "default_root_dir": None, "precision": None},
            "model": {"class_path": "encdec.paradigms.VAE", "init_args": {"beta": 1.0, "optimizer": {
                "class_path": "torch.optim.Adam", "init_args": {"lr": 0.001, "betas": [0.9, 0.999]}}, **model}},
            "data": {"class_path": "encdec.data.Digits", "init_args": {"batch_size": 128, "data_dir": "data"}},
        },
        "metrics": {"mse": {"value": mse, "unit": "per pixel", "reference": 0.5, "reference_name": "floor"}},
    }  # fmt: skip


def write(folder: Path, report: dict[str, Any], version: int = 0, checkpoint: str = "last") -> Path:
    path = folder / "run" / f"version_{version}" / "checkpoints" / f"{checkpoint}.evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report | {"checkpoint": f"{checkpoint}.ckpt"}))
    return path


def table_of(folder: Path, capsys: Capture, *args: str) -> tuple[dict[str, list[str]], list[str]]:
    """The cells of the first Markdown table by their row's name, and the lines below it that are no table's."""
    compare.main([str(folder), "--markdown", *args])
    lines = capsys.readouterr().out.splitlines()
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    rows = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in table][2:]
    return {row[0]: row[1:] for row in rows}, [line for line in lines if not line.startswith("|")]


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(report: dict[str, Any]) -> None:
        inner = report
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = to

    return apply
