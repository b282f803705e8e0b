"""`compare`: what it prints, in terminals of any width, and what it says where there is nothing to compare."""

import hashlib
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from encdec.cli import compare
from encdec.evaluation.questions import QUESTIONS
from tests.conftest import ENVIRONMENT, ROOT, RunCLI, encdec_in

from .reports import Capture, report_of, table_of, write

METRICS = [name for question in QUESTIONS for name in (question.headline[-1], *question.beside)]
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
    report["metrics"][f"f{name}"] = {"value": 0.125, "unit": name, "reference": 1, "reference_name": name}
    write(tmp_path, report)
    compare.main([str(tmp_path), "--metrics=all"])
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
        for i, name in enumerate(METRICS):
            report["metrics"][name] = {"value": 0.12345 + version + 20 * i, "unit": "u"}
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
    for name in METRICS:
        report["metrics"][name] = {"value": 0.12345, "unit": "u"}
    write(tmp_path, report)
    compare.main([str(tmp_path)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert row.count("0.12345") == len(METRICS)
    assert row.count("a name that is rather long") == 5


WHY = "FlowMatching makes images of noise, without latents or p(x|z)"


def test_what_is_undefined_is_named_beside_what_is_not_measured(tmp_path: Path, capsys: Capture) -> None:
    """A flow beside a VAE: a cell is a number, `undefined` with a sentence that says why, or empty."""
    vae, flow = report_of("vae"), report_of("flow")
    for report in (vae, flow):
        report["metrics"]["frechet_pca"] = {"value": 3.5, "unit": "u"}
    vae["metrics"] |= {name: {"value": 0.25, "unit": "u"} for name in ("nll_bound", "neighbours_encoder", "kl")}
    del flow["metrics"]["mse"]
    flow |= {"undefined": {"reconstruction": WHY, "likelihood": WHY, "latent space": WHY}}
    write(tmp_path, vae, 0)
    write(tmp_path, flow, 1)
    wanted = "mse,nll_bound,frechet_pca,neighbours_encoder,kl"
    rows, below = table_of(tmp_path, capsys, f"--metrics={wanted}")
    assert rows["vae"] == ["1", "0.1", "0.25", "3.5", "0.25", "0.25"]
    assert rows["flow"] == ["1", "undefined", "undefined", "3.5", "undefined", ""]
    assert f"flow: mse, nll_bound, neighbours_encoder are undefined: {WHY}" in below
    assert not [line for line in below if line.startswith("vae: ")]
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "run" / "version_1"), "--metrics=mse"])
    assert f"No run has a metric 'mse'; it is undefined, {WHY}." in capsys.readouterr().err


def test_a_damaged_reason_is_named(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae") | {"undefined": {"mse": 3}})
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert "undefined.mse is 3, but it must be text" in capsys.readouterr().err


# ---------------------------------------------------------------------- what `test` writes


def test_runs_of_one_name_with_other_settings_are_told_apart(cli: RunCLI, project: Path, capsys: Capture) -> None:
    """The commands that `fit` prints, and then `compare`."""
    for seed, beta in ((0, 0.5), (0, 4), (1, 4)):
        cli("fit", "--config", "configs/vae.yaml", f"--seed_everything={seed}", f"--model.beta={beta}",
            "--trainer.max_epochs=1", "--images.every_n_epochs=100")  # fmt: skip
    for version in range(3):
        cli("test", f"--ckpt_path=lightning_logs/vae/version_{version}/checkpoints/best.ckpt",
            "--evaluation.parts=[reconstruction]", "--evaluation.num_images=9", "--evaluation.posterior_steps=1",
            )  # fmt: skip
    capsys.readouterr()
    rows, below = table_of(Path("lightning_logs"), capsys)
    assert {name: cells[0] for name, cells in rows.items()} == {"vae beta=0.5": "1", "vae beta=4": "2"}
    assert "checkpoint: best.ckpt (3 runs)" in below
    assert not [line for line in below if "Careful" in line]
    assert encdec_in(project, "compare").returncode == 0


# ---------------------------------------------------------------------- means over seeds


def write_report(folder: Path, name: str, seed: int, data: str = "d", **metrics: float) -> None:
    path = folder / name / f"version_{seed}" / "checkpoints" / "last.evaluation.json"
    path.parent.mkdir(parents=True)
    content = {metric: {"value": value, "unit": "per pixel"} for metric, value in metrics.items()}
    content |= {k: {**v, "reference": 0.5, "reference_name": "floor"} for k, v in content.items() if k == "mse"}
    report = {"name": name, "seed": seed, "format": 2, "metrics": content, "data": {"fingerprint": data}}
    path.write_text(json.dumps(report))


def test_compare_shows_mean_and_spread_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, mse in enumerate([0.1, 0.2, 0.3]):
        write_report(tmp_path, "vae", seed, mse=mse, mse_posterior=1234.5 + seed)
    write_report(tmp_path, "noenc", 0, mse=0.5)
    compare.main([str(tmp_path), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | seeds | mse | mse_posterior |"
    assert lines[2] == "| noenc | 1 | 0.5 |  |"
    assert lines[3] == "| vae | 3 | 0.2 ± 0.1 | 1236 ± 1 |"
    assert "mse: per pixel; to compare with: 0.5 floor" in lines
    assert not [line for line in lines if line.startswith("Careful")]


def test_compare_warns_of_runs_that_cant_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, "a", 0, mse=0.1)
    write_report(tmp_path, "b", 0, data="other", mse=0.1)
    compare.main([str(tmp_path)])
    assert "Careful: these runs were evaluated with different data." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere"], 2, "There is no 'nowhere'"),
        (["empty"], 1, "empty holds no last.evaluation.json: run `python -m encdec test"),
        (["damaged"], 1, "can't be read as an evaluation (JSONDecodeError)"),
        (["foreign"], 1, "can't be read as an evaluation (KeyError)"),
        (["good", "--metrics=mse,fid"], 2, "No run has a metric 'fid'; known are mse"),
    ],
)
def test_compare_says_what_is_wrong(
    args: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_report(tmp_path / "good", "vae", 0, mse=0.1)
    for name, text in {"damaged": '{"name": ', "foreign": '{"metrics": {}}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.evaluation.json").write_text(text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        compare.main(args)
    assert stop.value.code == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_compare_is_a_command(project: Path) -> None:
    write_report(project / "lightning_logs", "vae", 0, mse=0.25)
    result = encdec_in(project, "compare")
    assert result.returncode == 0, result.stderr
    assert "0.25" in result.stdout
    assert "compare" in encdec_in(project, "compere").stderr


def test_an_evaluation_of_weights_that_are_not_there_any_more_is_named(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, report_of("vae") | {"sha256": hashlib.sha256(b"step 36").hexdigest()})
    checkpoint = path.with_name("last.ckpt")
    for content, minutes, is_named in ((b"step 36", 1, False), (b"step 42", -1, False), (b"step 42", 1, True)):
        checkpoint.write_bytes(content)
        os.utime(checkpoint, (path.stat().st_mtime + 60 * minutes,) * 2)
        _, lines = table_of(tmp_path, capsys)
        said = " ".join(lines)
        assert ("Careful: these numbers are of earlier weights than" in said) == is_named
        assert ("last.ckpt holds now; run `python -m encdec test" in said) == is_named
