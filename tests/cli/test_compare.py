"""`compare`: what is averaged, what is told apart, what is damaged, and what a terminal shows."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encdec.cli import compare
from encdec.cli.compare.grouping import summary
from tests.conftest import ENVIRONMENT, ROOT, RunCLI, encdec_in

Capture = pytest.CaptureFixture[str]


def report_of(name: str, seed: int = 0, /, mse: float = 0.1, **model: Any) -> dict[str, Any]:
    """A report as `test` writes them, of a run of 10 epochs."""
    return {
        "format": 1, "name": name, "paradigm": "VAE", "seed": seed, "checkpoint": "last.ckpt", "step": 110,
        "data": {"class": "Digits", "fingerprint": "6052a675"}, "precision": "32-true", "feature_space": "a CNN",
        "versions": {"encdec": "0.1.0", "torch": "2.15.0"}, "settings": {"num_images": 100, "cache_dir": None},
        "config": {
            "seed_everything": seed, "name": name, "images": {"num_images": 16},
            "trainer": {"max_epochs": 10, "devices": "1", "default_root_dir": None, "precision": None},
            "model": {"class_path": "encdec.paradigms.VAE", "init_args": {"beta": 1.0, "optimizer": {
                "class_path": "torch.optim.Adam", "init_args": {"lr": 0.001, "betas": [0.9, 0.999]}}, **model}},
            "data": {"class_path": "encdec.data.Digits", "init_args": {"batch_size": 128, "data_dir": "data"}},
        },
        "figures": {"mse": {"value": mse, "unit": "per pixel", "reference": 0.5, "reference_name": "floor"}},
    }  # fmt: skip


def write(folder: Path, report: dict[str, Any], version: int = 0, checkpoint: str = "last") -> Path:
    path = folder / "run" / f"version_{version}" / "checkpoints" / f"{checkpoint}.evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report | {"checkpoint": f"{checkpoint}.ckpt"}))
    return path


def table_of(folder: Path, capsys: Capture, *args: str) -> tuple[dict[str, list[str]], list[str]]:
    """The cells of the Markdown table by their row's name, and the lines below it."""
    compare.main([str(folder), "--markdown", *args])
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in lines if line.startswith("|")][2:]
    return {row[0]: row[1:] for row in rows}, [line for line in lines if not line.startswith("|")]


# ---------------------------------------------------------------------- what is one row


def test_other_models_are_other_rows_and_never_seeds(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0, 0.05, beta=0.5), 0)
    write(tmp_path, report_of("vae", 0, 0.11, beta=4), 1)
    rows, _ = table_of(tmp_path, capsys)
    assert rows == {"vae beta=0.5": ["1", "0.05"], "vae beta=4": ["1", "0.11"]}


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(report: dict[str, Any]) -> None:
        inner = report
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = to

    return apply


SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
DIFFERENT = {
    "a model's setting": (change("config", "model", "init_args", "beta", to=4), ["vae beta=1", "vae beta=4"]),
    "a setting inside": (
        change("config", "model", "init_args", "optimizer", "init_args", "lr", to=0.1),
        ["vae optimizer.lr=0.001", "vae optimizer.lr=0.1"],
    ),
    "a class": (
        change("config", "model", "init_args", "optimizer", to=SGD),
        ["vae optimizer=Adam", "vae optimizer=SGD"],
    ),
    "a new setting": (change("config", "model", "init_args", "prior", to="mixture"), ["vae", "vae prior=mixture"]),
    "epochs": (change("config", "trainer", "max_epochs", to=20), ["vae max_epochs=10", "vae max_epochs=20"]),
    "steps": (change("step", to=55), ["vae step=110", "vae step=55"]),
    "clipping": (change("config", "trainer", "gradient_clip_val", to=1.0), ["vae", "vae gradient_clip_val=1"]),
    "processes": (change("config", "trainer", "devices", to="2"), ["vae devices=1", "vae devices=2"]),
    "precision": (change("precision", to="bf16-true"), ["vae precision=32-true", "vae precision=bf16-true"]),
    "batch": (
        change("config", "data", "init_args", "batch_size", to=32),
        ["vae data.batch_size=128", "vae data.batch_size=32"],
    ),
    "images": (
        change("data", "fingerprint", to="8a29f0"),
        ["vae fingerprint=6052a675", "vae fingerprint=8a29f0"],
    ),
    "evaluation": (
        change("settings", "num_images", to=200),
        ["vae evaluation.num_images=100", "vae evaluation.num_images=200"],
    ),
    "paradigm": (change("paradigm", to="AE"), ["vae paradigm=AE", "vae paradigm=VAE"]),
    "the name": (change("name", to="ae"), ["ae", "vae"]),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_defines_a_run_splits_rows_and_is_named(name: str, tmp_path: Path, capsys: Capture) -> None:
    apply, labels = DIFFERENT[name]
    other = report_of("vae", 1, 0.2)
    apply(other)
    write(tmp_path, report_of("vae", 0, 0.1), 0)
    write(tmp_path, other, 1)
    rows, _ = table_of(tmp_path, capsys)
    assert sorted(rows) == labels
    assert {cells[0] for cells in rows.values()} == {"1"}


SAME = {
    "where data lie": change("config", "data", "init_args", "data_dir", to="/mnt/data"),
    "where pictures lie": change("config", "data", "init_args", "path", to="/mnt/data"),
    "workers": change("config", "data", "init_args", "num_workers", to=8),
    "where runs lie": change("config", "trainer", "default_root_dir", to="elsewhere"),
    "logging": change("config", "trainer", "log_every_n_steps", to=1),
    "a bar": change("config", "trainer", "enable_progress_bar", to=False),
    "pictures": change("config", "images", "num_images", to=3),
    "a cache": change("settings", "cache_dir", to="elsewhere"),
    "a number's spelling": change("config", "model", "init_args", "beta", to=1),
    "the version's number": change("version", to="version_7"),
}


def test_a_data_module_says_which_settings_have_no_effect(tmp_path: Path, capsys: Capture) -> None:
    for seed in range(2):
        report = report_of("vae", seed, 0.1 + seed)
        report["data"]["without_effect"] = ["threads"]
        report["config"]["data"]["init_args"]["threads"] = seed
        write(tmp_path, report, seed)
    assert [*table_of(tmp_path, capsys)[0]] == ["vae"]


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_result_splits_no_rows(name: str, tmp_path: Path, capsys: Capture) -> None:
    other = report_of("vae", 1, 0.2)
    SAME[name](other)
    write(tmp_path, report_of("vae", 0, 0.1), 0)
    write(tmp_path, other, 1)
    assert table_of(tmp_path, capsys)[0] == {"vae": ["2", "0.15 ± 0.07"]}


def test_a_repeated_seed_is_counted_once_and_said(tmp_path: Path, capsys: Capture) -> None:
    for version, (seed, mse) in enumerate([(0, 0.1), (0, 0.3), (1, 0.4)]):
        write(tmp_path, report_of("vae", seed, mse), version)
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["2 (3 runs)", "0.3 ± 0.1"]}, "of 0.2, the mean of the first seed, and 0.4"
    assert "vae: 2 runs have the seed 0 and the same settings, but other results: their mean counts once, as no " \
           "spread over seeds." in below  # fmt: skip


def test_two_runs_of_one_seed_are_no_spread(tmp_path: Path, capsys: Capture) -> None:
    for version in range(2):
        write(tmp_path, report_of("vae", 0, 0.1), version)
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["1 (2 runs)", "0.1"]}
    assert "vae: 2 runs have the seed 0 and the same settings and results, so they count once." in below


def test_one_file_by_two_paths_is_one_run(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, report_of("vae"))
    (tmp_path / "link").symlink_to(tmp_path / "run")
    rows, below = table_of(tmp_path, capsys, str(path), str(tmp_path / "link"), str(tmp_path))
    assert rows == {"vae": ["1", "0.1"]}
    assert not [line for line in below if "seed" in line]


def test_a_figure_that_some_seeds_lack_says_of_how_many_it_is(tmp_path: Path, capsys: Capture) -> None:
    first = report_of("vae", 0)
    first["figures"]["kl"] = {"value": 2.0, "unit": "nats"}
    write(tmp_path, first, 0)
    write(tmp_path, report_of("vae", 1), 1)
    assert table_of(tmp_path, capsys, "--figures=kl")[0] == {"vae": ["2", "2 (1 of 2 seeds)"]}


def test_reports_of_other_versions_of_torch_are_said(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0), 0)
    write(tmp_path, report_of("vae", 1) | {"versions": {"torch": "2.10.0"}}, 1)
    assert "Careful: these runs were evaluated with different versions of packages." in table_of(tmp_path, capsys)[1]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.1], "0.1"),
        ([1e300, -1e300, 9e299], "3e+299 ± 1e+300"),
        ([1e12, 1.1e12], "1.05e+12 ± 7e+10"),
        ([1e-300, 2e-300], "1.5e-300 ± 7e-301"),
        ([None, None], ""),
        ([0.0, 0.0], "0"),
        ([0, 3], "2 ± 2"),
    ],
)
def test_a_summary_is_short_whatever_the_numbers(values: list[float | None], shown: str) -> None:
    assert summary(values) == shown


# ---------------------------------------------------------------------- which checkpoint


def test_best_is_taken_where_last_was_not_evaluated_and_it_is_said(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0), 0, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["1", "0.1"]}
    assert below == ["mse: per pixel; to compare with: 0.5 floor", "checkpoint: best.ckpt (1 run)"]
    write(tmp_path, report_of("vae", 1, 0.2), 1, "last")
    write(tmp_path, report_of("vae", 1, 0.3), 1, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae checkpoint=best": ["1", "0.1"], "vae checkpoint=last": ["1", "0.2"]}
    assert "Careful: different checkpoints: best.ckpt (1 run), last.ckpt (1 run)" in below
    for name in ("best", "best.ckpt"):
        assert table_of(tmp_path, capsys, f"--checkpoint={name}")[0] == {"vae": ["2", "0.2 ± 0.1"]}


def test_best_checkpoints_of_other_steps_are_seeds_and_the_steps_are_said(tmp_path: Path, capsys: Capture) -> None:
    for seed, step in enumerate([33, 77]):
        write(tmp_path, report_of("vae", seed) | {"step": step}, seed, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["2", "0.1"]}
    assert "vae: the checkpoints are of steps 33 to 77." in below


def test_a_checkpoint_of_another_name_is_offered(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae"), 0, "epoch=3")
    with pytest.raises(SystemExit) as stop:
        compare.main([str(tmp_path)])
    assert stop.value.code == 1
    assert "It holds that of epoch=3: --checkpoint takes it." in capsys.readouterr().err
    assert table_of(tmp_path, capsys, "--checkpoint=epoch=3")[0] == {"vae": ["1", "0.1"]}


# ---------------------------------------------------------------------- damaged reports


def figure(to: Any) -> Callable[[dict[str, Any]], None]:
    return change("figures", "mse", to=to)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], None] | str | bytes, str]] = {
    "a figure that is null": (figure(None), "figures.mse is null, but it must be an object"),
    "a figure that is a number": (figure(0.1), "figures.mse is 0.1, but it must be an object"),
    "a figure that is a list": (figure([1]), "figures.mse is [1]"),
    "a value that is text": (figure({"value": "0.1", "unit": "u"}), 'figures.mse.value is "0.1"'),
    "a value that is null": (figure({"value": None, "unit": "u"}), "figures.mse.value is null"),
    "a value that is true": (figure({"value": True, "unit": "u"}), "figures.mse.value is true"),
    "a value that is a list": (figure({"value": [0.1], "unit": "u"}), "figures.mse.value is [0.1]"),
    "a value that is huge": (figure({"value": 1e305, "unit": "u"}), "must lie within ±1e+300"),
    "a value that is a huge integer": (figure({"value": 10**400, "unit": "u"}), "must lie within ±1e+300"),
    "no value": (figure({"unit": "u"}), "figures.mse has no 'value'"),
    "no unit": (figure({"value": 0.1}), "figures.mse has no 'unit'"),
    "a unit that is a number": (figure({"value": 0.1, "unit": 3}), "figures.mse.unit is 3, but it must be text"),
    "a reference that is text": (figure({"value": 1, "unit": "u", "reference": "x"}), "figures.mse.reference is"),
    "a reference's name that is a list": (figure({"value": 1, "unit": "u", "reference_name": []}), "reference_name is"),
    "an error that is null": (figure({"value": 1, "unit": "u", "standard_error": None}), "standard_error is null"),
    "figures that are a list": (change("figures", to=[1, 2]), "figures is [1, 2], but it must be an object"),
    "figures that are null": (change("figures", to=None), "figures is null"),
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
    "a newer format": (change("format", to=99), "its format is 99, but this encdec reads 1"),
    "a format that is text": (change("format", to="1"), 'format is "1"'),
    "a feature space that is a number": (change("feature_space", to=3), "feature_space is 3"),
    "a config that is deep": (change("config", to={"a": json.loads("[" * 90 + "]" * 90)}), "more deeply than 50"),
    "an infinite value": ('{"name": "a", "seed": 0, "data": {}, "figures": {"mse": {"value": Infinity}}}', "Infinity"),
    "a value that is no number": ('{"figures": {"mse": {"value": NaN}}}', "NaN is no number"),
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
        ([".", "--figures="], "No run has a figure ''"),
        ([".", "--figures=a\nb"], r"No run has a figure 'a\\nb'; known are mse."),
        ([".", "--checkpoint="], "--checkpoint is empty"),
        ([".", "--markdow"], "no option --markdow; did you mean --markdown?"),
        ([".", "--figures"], "expected one argument"),
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


# ---------------------------------------------------------------------- what is shown

NAMES = [
    "vae[k=8]",
    "[bold]vae[/bold]",
    "[/]",
    "a|b",
    ":smile:",
    "line\nbreak",
    "\x1b[31mred",
    "\ud800",
    "",
    "日本語",
    "a\\b",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name: str, tmp_path: Path, capsys: Capture) -> None:
    report = report_of(name)
    report["figures"][f"f{name}"] = {"value": 0.125, "unit": name, "reference": 1, "reference_name": name}
    write(tmp_path, report)
    compare.main([str(tmp_path), "--figures=all"])
    out = capsys.readouterr().out
    seen = {"line\nbreak": r"line\nbreak", "\x1b[31mred": r"\x1b[31mred", "\ud800": r"\ud800", "": "(no name)"}
    assert f"│ {seen.get(name, name)} " in out
    assert out.isprintable() or all(line.isprintable() for line in out.splitlines())
    rows, _ = table_of(tmp_path, capsys)
    assert [*rows] == [seen.get(name, name).replace("\\", "\\\\").replace("|", "\\|")]


def in_terminal(width: int, folder: Path, *args: str) -> str:
    """What `compare` prints in a terminal of that width."""
    ours, theirs = pty.openpty()
    printed = bytearray()

    def read() -> None:
        while True:
            try:
                printed.extend(os.read(ours, 65536))
            except OSError:  # the other end is closed
                return

    environment = ENVIRONMENT | {"COLUMNS": str(width), "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run([sys.executable, "-m", "encdec", "compare", str(folder), *args], stdout=theirs, cwd=ROOT,
                   env=environment, check=True)  # fmt: skip
    os.close(theirs)
    reader.join()
    os.close(ours)
    return printed.decode()


@pytest.mark.parametrize("runs", [2, 12])
def test_a_narrow_terminal_cuts_no_number(runs: int, tmp_path: Path) -> None:
    numbers = []
    for version in range(runs):
        report = report_of("vae", 0, beta=version)
        for i, name in enumerate(compare.FIGURES):
            report["figures"][name] = {"value": 0.12345 + version + 20 * i, "unit": "u"}
            numbers.append(f"{0.12345 + version + 20 * i:.5g}")
        write(tmp_path, report, version)
    for width in (80, 40, 20):
        out = in_terminal(width, tmp_path)
        assert [number for number in numbers if number not in out] == []
        assert "…" not in out
        lines = [line for line in out.splitlines() if line.startswith(("│", "┃"))]
        if width == 80:
            assert max(map(len, lines)) <= width
            assert all(f"beta={version}" in out for version in range(runs))


def test_without_a_terminal_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    report = report_of("a name that is rather long, " * 5)
    for name in compare.FIGURES:
        report["figures"][name] = {"value": 0.12345, "unit": "u"}
    write(tmp_path, report)
    compare.main([str(tmp_path)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert row.count("0.12345") == len(compare.FIGURES)
    assert row.count("a name that is rather long") == 5


# ---------------------------------------------------------------------- what `test` writes


def test_runs_of_one_name_with_other_settings_are_told_apart(cli: RunCLI, project: Path, capsys: Capture) -> None:
    """The commands that `fit` prints, and then `compare`."""
    for seed, beta in ((0, 0.5), (0, 4), (1, 4)):
        cli("fit", "--config", "configs/vae.yaml", f"--seed_everything={seed}", f"--model.beta={beta}",
            "--trainer.max_epochs=1", "--images.every_n_epochs=100")  # fmt: skip
    for version in range(3):
        cli("test", f"--ckpt_path=lightning_logs/vae/version_{version}/checkpoints/best.ckpt",
            "--evaluation.parts=[reconstruction]", "--evaluation.num_images=9", "--evaluation.code_steps=1",
            )  # fmt: skip
    capsys.readouterr()
    rows, below = table_of(Path("lightning_logs"), capsys)
    assert {name: cells[0] for name, cells in rows.items()} == {"vae beta=0.5": "1", "vae beta=4": "2"}
    assert "checkpoint: best.ckpt (3 runs)" in below
    assert not [line for line in below if "Careful" in line]
    assert encdec_in(project, "compare").returncode == 0
