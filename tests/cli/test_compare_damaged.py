"""`compare`: reports that are damaged."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encdec.cli import compare

from .reports import Capture, change, report_of, write


def metric(to: Any) -> Callable[[dict[str, Any]], None]:
    return change("metrics", "mse", to=to)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], None] | str | bytes, str]] = {
    "a metric that is null": (metric(None), "metrics.mse is null, but it must be an object"),
    "a metric that is a number": (metric(0.1), "metrics.mse is 0.1, but it must be an object"),
    "a metric that is a list": (metric([1]), "metrics.mse is [1]"),
    "a value that is text": (metric({"value": "0.1", "unit": "u"}), 'metrics.mse.value is "0.1"'),
    "a value that is null": (metric({"value": None, "unit": "u"}), "metrics.mse.value is null"),
    "a value that is true": (metric({"value": True, "unit": "u"}), "metrics.mse.value is true"),
    "a value that is a list": (metric({"value": [0.1], "unit": "u"}), "metrics.mse.value is [0.1]"),
    "a value that is huge": (metric({"value": 1e305, "unit": "u"}), "must lie within ±1e+300"),
    "a value that is a huge integer": (metric({"value": 10**400, "unit": "u"}), "must lie within ±1e+300"),
    "no value": (metric({"unit": "u"}), "metrics.mse has no 'value'"),
    "no unit": (metric({"value": 0.1}), "metrics.mse has no 'unit'"),
    "a unit that is a number": (metric({"value": 0.1, "unit": 3}), "metrics.mse.unit is 3, but it must be text"),
    "a reference that is text": (metric({"value": 1, "unit": "u", "reference": "x"}), "metrics.mse.reference is"),
    "a reference's name that is a list": (metric({"value": 1, "unit": "u", "reference_name": []}), "reference_name is"),
    "an error that is null": (metric({"value": 1, "unit": "u", "standard_error": None}), "standard_error is null"),
    "metrics that are a list": (change("metrics", to=[1, 2]), "metrics is [1, 2], but it must be an object"),
    "metrics that are null": (change("metrics", to=None), "metrics is null"),
    "a name that is a list": (change("name", to=["vae"]), 'name is ["vae"], but it must be text'),
    "a name that is a number": (change("name", to=7), "name is 7"),
    "a seed that is text": (change("seed", to="0"), 'seed is "0", but it must be an integer'),
    "a seed that is null": (change("seed", to=None), "seed is null"),
    "a seed that is an object": (change("seed", to={}), "seed is {}"),
    "data that are a list": (change("data", to=[]), "data is []"),
    "no fingerprint": (change("data", to={}), "data has no 'fingerprint'"),
    "a fingerprint that is a list": (change("data", "fingerprint", to=[1]), "data.fingerprint is [1]"),
    "settings without effect that are text": (change("data", "without_effect", to="x"), "data.without_effect is"),
    "settings that are a list": (change("settings", to=[1]), "settings is [1]"),
    "a config that is text": (change("config", to="model"), 'config is "model"'),
    "a checkpoint that is a number": (lambda report: None, ""),  # see below: write() sets it
    "a step that is text": (change("step", to="110"), 'step is "110"'),
    "a newer format": (change("format", to=99), "its format is 99, but this encdec reads 2"),
    "an older format": (change("format", to=1), "its format is 1, of an older encdec whose metrics mean other things"),
    "no format": (lambda report: report.pop("format"), "it has no 'format'"),
    "a format that is text": (change("format", to="1"), 'format is "1"'),
    "a feature space that is a number": (change("feature_space", to=3), "feature_space is 3"),
    "a config that is deep": (change("config", to={"a": json.loads("[" * 90 + "]" * 90)}), "more deeply than 50"),
    "an infinite value": ('{"metrics": {"mse": {"value": Infinity}}}', "Infinity is no number"),
    "a value that is no number": ('{"metrics": {"mse": {"value": NaN}}}', "NaN is no number"),
    "too many digits": ('{"seed": ' + "9" * 5000 + "}", "can't be read as an evaluation (ValueError)"),
    "deep JSON": ("[" * 100_000, "nested more deeply"),
    "deep objects": ('{"a":' * 100_000, "nested more deeply"),
    "an empty file": ("", "(JSONDecodeError)"),
    "half a file": ('{"name": "v', "(JSONDecodeError)"),
    "a list": ("[]", "the report is [], but it must be an object"),
    "a number": ("3", "the report is 3"),
    "null": ("null", "the report is null"),
    "a name twice": ('{"seed": 0, "seed": 1}', "it has 'seed' twice"),
    "bytes": (bytes(range(256)), "its byte 128 is not UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8"),
}  # fmt: skip
del DAMAGED["a checkpoint that is a number"]


def damage(folder: Path, name: str, version: int = 0) -> Path:
    made = DAMAGED[name][0]
    report = report_of("vae")
    if callable(made):
        made(report)
    path = write(folder, report, version)
    if not callable(made):
        path.write_bytes(made if isinstance(made, bytes) else made.encode())
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_report_is_one_sentence_that_names_it(name: str, tmp_path: Path, capsys: Capture) -> None:
    path = damage(tmp_path, name)
    with pytest.raises(SystemExit) as stop:
        compare.main([str(tmp_path)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (1, "")
    assert f"{path} can't be read as an evaluation" in err
    assert DAMAGED[name][1] in err
    assert len(err.splitlines()) == 1
    assert len(err) - len(str(path)) < 400


def test_damaged_reports_do_not_hide_the_others(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0, 0.125), 99)
    paths = [damage(tmp_path, name, version) for version, name in enumerate(DAMAGED)]
    compare.main([str(tmp_path)])
    out, err = capsys.readouterr()
    assert "0.125" in out
    assert len(err.splitlines()) == 11
    assert f"{len(paths) - 10} more files can't be read and are left out." in err
    assert err.count("It is left out.") == 10


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


@pytest.mark.parametrize("make", [a_folder, a_pipe, a_dangling_link])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path, capsys: Capture) -> None:
    make(tmp_path / "last.evaluation.json")
    for given in (tmp_path, tmp_path / "last.evaluation.json"):
        with pytest.raises(SystemExit) as stop:
            compare.main([str(given)])
        assert stop.value.code == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_huge_file_is_not_read(tmp_path: Path, capsys: Capture) -> None:
    with (tmp_path / "last.evaluation.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert "it has more than 16 MiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "There is no 'nowhere'"),
        (["x" * 5000], "can't be looked into"),
        ([".", "--metrics="], "No run has a metric ''"),
        ([".", "--metrics=a\nb"], r"No run has a metric 'a\\nb'; known are mse."),
        ([".", "--checkpoint="], "--checkpoint is empty"),
        ([".", "--markdow"], "no option --markdow; did you mean --markdown?"),
        ([".", "--metrics"], "expected one argument"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, report_of("vae"))
    with pytest.raises(SystemExit) as stop:
        compare.main(args)
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert words in err
