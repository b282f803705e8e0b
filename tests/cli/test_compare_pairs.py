"""`compare`: differences image by image, and what forbids them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encdec.cli import compare
from encdec.evaluation import image_values
from encdec.evaluation.image_values import ImageValues

from .reports import Capture, report_of, write

RNG = np.random.default_rng(0)
HARD = RNG.normal(size=500)  # how hard each image is, for every model


def run(folder: Path, name: str, seed: int, values: Any, version: int, **changes: Any) -> np.ndarray:
    """Write a report and the values of its images; these are given back."""
    report = report_of(name, seed, float(values.mean())) | changes
    path = write(folder, report, version)
    with path.with_name("last.evaluation.npz").open("wb") as file:
        image_values.write(file, {"mse": ImageValues(values)})
    return np.asarray(values)


def shown(folder: Path, capsys: Capture, *args: str) -> list[str]:
    compare.main([str(folder), "--markdown", *args])
    return capsys.readouterr().out.splitlines()


def test_differences_are_of_the_same_images(tmp_path: Path, capsys: Capture) -> None:
    """What makes images hard for both cancels: against NumPy, over two seeds of each."""
    a = [run(tmp_path, "a", seed, HARD + 0.01 * RNG.normal(size=500), seed) for seed in range(2)]
    b = [run(tmp_path, "b", seed, HARD + 0.3 + 0.01 * RNG.normal(size=500), 2 + seed) for seed in range(2)]
    lines = shown(tmp_path, capsys)
    difference = np.mean(b, axis=0) - np.mean(a, axis=0)
    error = difference.std(ddof=1) / math.sqrt(500)
    assert error < 0.001 < HARD.std() / math.sqrt(500)
    assert "| minus a | mse |" in lines
    assert f"| b | {difference.mean():+.4g} ± {error:.2g} |" in lines
    turned = shown(tmp_path, capsys, "--baseline=b")
    assert f"| a | {-difference.mean():+.4g} ± {error:.2g} |" in turned


@pytest.mark.parametrize(
    ("study", "baseline"),
    [
        ("{paradigms: {b: [], a: []}}", "b"),
        ("{paradigms: {a: [], b: []}, report: {baseline: b}}", "b"),
        ("{paradigms: {a: [], b: []}, report: {baseline: gone}}", "a"),
        ("{paradigms: [a]}", "a"),
        ("- no study", "a"),
        ("{", "a"),
    ],
)
def test_a_study_is_compared_with_the_baseline_of_its_report(
    study: str, baseline: str, tmp_path: Path, capsys: Capture
) -> None:
    for seed, name in enumerate("ab"):
        run(tmp_path, name, 0, HARD + RNG.normal(size=500), seed)
    (tmp_path / "study.yaml").write_text(study)
    assert f"| minus {baseline} | mse |" in shown(tmp_path, capsys)
    assert "| minus a | mse |" in shown(tmp_path, capsys, "--baseline=a")


@pytest.mark.parametrize(
    "changes",
    [{"data": {"class": "Digits", "fingerprint": "other"}}, {"feature_space": "another CNN"}],
    ids=["data", "feature space"],
)
def test_what_was_measured_otherwise_has_no_difference(
    changes: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    run(tmp_path, "b", 0, HARD, 1, **changes)
    lines = shown(tmp_path, capsys)
    assert not [line for line in lines if "minus" in line]
    assert [line for line in lines if line.startswith("Careful: these runs were evaluated with different")]


def test_other_images_have_no_difference(tmp_path: Path, capsys: Capture) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    run(tmp_path, "b", 0, HARD[:400], 1)
    assert not [line for line in shown(tmp_path, capsys) if "minus" in line]


def test_runs_without_values_have_no_difference(tmp_path: Path, capsys: Capture) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    write(tmp_path, report_of("b"), 1)
    assert not [line for line in shown(tmp_path, capsys) if "minus" in line]


def test_damaged_values_are_said_and_all_else_is_shown(tmp_path: Path, capsys: Capture) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    run(tmp_path, "b", 0, HARD, 1)
    path = tmp_path / "run" / "version_1" / "checkpoints" / "last.evaluation.npz"
    path.write_bytes(b"PK no")
    compare.main([str(tmp_path), "--markdown"])
    out, err = capsys.readouterr()
    assert "| b | 1 |" in out
    assert "minus" not in out
    assert f"{path} can't be read, so its run is not compared image by image" in err
    assert len(err.splitlines()) == 1


def test_the_settings_of_an_evaluation_that_differ_are_named(tmp_path: Path, capsys: Capture) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    run(tmp_path, "b", 0, HARD, 1, settings={"num_images": 10_000, "cache_dir": "x", "details": True})
    careful = [line for line in shown(tmp_path, capsys) if line.startswith("Careful")]
    assert careful == ["Careful: these runs were evaluated with different settings of the evaluation (num_images)."]


def test_an_unknown_baseline_is_a_sentence(tmp_path: Path, capsys: Capture) -> None:
    run(tmp_path, "a", 0, HARD, 0)
    with pytest.raises(SystemExit) as stop:
        compare.main([str(tmp_path), "--baseline=b"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "encdec: error: No row is called 'b', so none can be the baseline; there are a.\n"
    )
