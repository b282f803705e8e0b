"""Statistics of rounds, and a record of what was measured where."""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.turns import ROOT

RESULTS = ROOT / "benchmarks" / "results"
Json = dict[str, Any]


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """`of` relative to `to`, round by round."""
    return [a / b for a, b in zip(of, to, strict=True)]


def summary(values: Sequence[float]) -> Json:
    """The values, their median and its interval."""
    low, high = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": list(values)}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, from the binomial distribution of how many values lie below it.

    Of five values or fewer no interval holds the median so surely: it is then from the lowest to the highest.
    """
    ordered, n = sorted(values), len(values)
    outside, left_out = 0.0, 0
    while 2 * (outside := outside + math.comb(n, left_out) / 2**n) <= 0.05:
        left_out += 1
    skip = max(left_out - 1, 0)
    return ordered[skip], ordered[n - 1 - skip]


def shown(entry: Json, digits: int = 3) -> str:
    """`median (low–high)`."""
    return f"{number(entry['median'], digits)} ({number(entry['low'], digits)}–{number(entry['high'], digits)})"


def number(value: float, digits: int = 3) -> str:
    """With so many significant digits, and no exponent."""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def parser(module: str, description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    arguments = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    arguments.add_argument("--data", choices=["FashionMNIST", "Digits"], help="default: FashionMNIST if it is there")
    arguments.add_argument("--rounds", type=int, default=rounds, help="turns of each (%(default)s)")
    arguments.add_argument("--quick", action="store_true", help="digits and short turns, to see that it runs")
    arguments.add_argument("--out", type=Path, help=f"JSON file (benchmarks/results/{module}.json; none if --quick)")
    return arguments


def record(arguments: argparse.Namespace, benchmark: str, results: Any) -> None:
    """Write results, with all that is needed to repeat them, as JSON."""
    path = arguments.out or (None if arguments.quick else RESULTS / f"{benchmark}.json")
    if path is None:
        return
    names = ("torch", "torchvision", "lightning", "pythae")
    found = [name for name in names if importlib.util.find_spec(name)]
    options = {key: value for key, value in vars(arguments).items() if key != "out"}
    contents = {
        "benchmark": f"python -m benchmarks.{benchmark}",
        "options": options,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": _gpu(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            "encdec": _commit(),
        }
        | {name: importlib.metadata.version(name) for name in found},
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
