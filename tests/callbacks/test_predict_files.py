"""What `predict` and others write is whole, or what was there before; and what they say about it is true."""

import errno
import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from encdec.callbacks import prediction_rows
from encdec.files import claimed, written_whole
from encdec.types import UserError
from tests import killing
from tests.conftest import RunCLI, new_project

Capture = pytest.CaptureFixture[str]
FILES = [
    f"{stem}.{ending}"
    for stem in ("samples", "reconstructions", "interpolations", "traversals")
    for ending in ("png", "pt")
]
FOLDER = Path("lightning_logs/vae/version_0/predictions")
CHECKPOINT = "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a trained run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        new_project(folder, patch)
    code, output = killing.run(folder, "fit", "--config", "configs/vae.yaml", "--trainer.max_epochs=1")
    assert code == 0, output
    return folder


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, cli: RunCLI) -> Path:
    """The folder of that project's predictions, which are those of an earlier call with 2 rows."""
    monkeypatch.chdir(trained)
    cli("predict", CHECKPOINT, "--predictions.num_rows=2")
    return trained / FOLDER


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fails(run: RunCLI, *args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        run("predict", CHECKPOINT, *args)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = {
    "a tensor's file": "torch.save",
    "a picture's file": "encdec.callbacks.predictions.as_png",
    "a part": "encdec.callbacks.prediction_rows.Rows.append",
    "the disk's own buffers": "encdec.callbacks.prediction_rows.os.fsync",
    "its place": "encdec.callbacks.predictions.os.replace",
    "a folder": "pathlib.Path.mkdir",
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_one_sentence_and_earlier_files_are_whole(
    name: str, cli: RunCLI, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = contents(run)
    assert sorted(before) == sorted(FILES)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(FULL[name], no_space)
        if name == "a picture's file":  # it costs the picture alone
            cli("predict", CHECKPOINT)
            return
        assert fails(cli) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert "can't be written (No space left on device); what was there before is still there" in err
    assert "predict.tmp" not in err
    assert contents(run) == before


def test_a_quota_that_ends_within_a_file_is_one_sentence(run: Path) -> None:
    """A real limit on the size of files: some parts are written, and then one is not."""
    before = contents(run)
    for largest in (1_000, 20_000, 100_000):
        code, output = killing.run(run.parents[3], "predict", CHECKPOINT, largest_file=largest)
        assert code == 1, output
        (error,) = [line for line in output.splitlines() if "error" in line]
        assert "can't be written (File too large); what was there before is still there" in error
        assert contents(run) == before


@pytest.mark.parametrize("place", ["lightning_logs/vae/version_0/predictions", "fresh"])
def test_ctrl_c_before_the_end_leaves_nothing_and_says_so(
    place: str, cli: RunCLI, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = contents(run)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("encdec.callbacks.predictions.strip_latents", interrupt)
    capsys.readouterr()
    assert fails(cli, f"--predictions.output_dir={place}") == 130
    assert "Interrupted: nothing was written." in capsys.readouterr().out
    assert contents(run) == before
    assert not Path("fresh").exists()


def test_ctrl_c_within_the_last_step_says_what_was_written(
    cli: RunCLI, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before, replace, calls = contents(run), os.replace, iter(range(10))

    def interrupt(source: Path, target: Path) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("encdec.callbacks.predictions.os.replace", interrupt)
        assert fails(cli) == 130
    out = capsys.readouterr().out
    assert f"Interrupted: {FOLDER}/samples.png, {FOLDER}/samples.pt had been written before." in out
    assert sorted(contents(run)) == sorted(before)
    assert contents(run)["interpolations.pt"] == before["interpolations.pt"]


@pytest.mark.parametrize("moment", ["a prediction's file", "a prediction's place"])
def test_what_a_kill_leaves_is_whole_and_the_next_call_cleans_up(moment: str, cli: RunCLI, run: Path) -> None:
    before = contents(run)
    code, output = killing.run(run.parents[3], "predict", CHECKPOINT, moment=moment)
    assert code == -signal.SIGKILL, output
    left = {path.name: path.read_bytes() for path in run.iterdir() if path.name in FILES}
    assert left == before
    assert (run / ".predict.tmp").is_dir(), "or this test means nothing"
    cli("predict", CHECKPOINT)
    assert sorted(contents(run)) == sorted(FILES)
    assert len(torch.load(run / "interpolations.pt", weights_only=True)["y"]) == 8


def test_two_calls_at_once_do_not_mix(cli: RunCLI, run: Path, capsys: Capture) -> None:
    before = contents(run)
    capsys.readouterr()
    with claimed(run / ".predict.lock"):  # as another process does meanwhile
        assert fails(cli) == 1
        err = capsys.readouterr().err
        assert "Another process writes its predictions into lightning_logs/vae/version_0/predictions: wait" in err
        assert len(err.splitlines()) == 1
        cli("predict", CHECKPOINT, "--predictions.output_dir=another")
    assert {name: content for name, content in contents(run).items() if name in FILES} == before


def test_files_of_an_earlier_call_that_are_not_replaced_are_named(cli: RunCLI, run: Path, capsys: Capture) -> None:
    cli("fit", "--config", "configs/vae_noenc.yaml", "--trainer.max_epochs=1")
    capsys.readouterr()
    cli("predict", "--ckpt_path=lightning_logs/vae_noenc/version_0/checkpoints/last.ckpt",
        f"--predictions.output_dir={FOLDER}")  # fmt: skip
    err = capsys.readouterr().err
    assert err == f"encdec: reconstructions.png, reconstructions.pt in {FOLDER} are of an earlier call.\n"


def test_a_file_where_the_folder_would_be_is_a_sentence(cli: RunCLI, run: Path, capsys: Capture) -> None:
    Path("taken").write_text("a file")
    assert fails(cli, "--predictions.output_dir=taken/inside") == 1
    assert "taken/inside can't be written (Not a directory)" in capsys.readouterr().err
    assert fails(cli, "--predictions.output_dir=taken") == 1
    assert "taken can't be written (Not a directory)" in capsys.readouterr().err
    assert Path("taken").read_text() == "a file"


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_disk_that_is_full_for_tensorboard_is_one_sentence(command: str, run: Path) -> None:
    if command == "fit":
        small = ("--config", "configs/decoder.yaml", "--model.decoder.hidden=[4]")  # checkpoints of 30 kB
        code, output = killing.run(run.parents[3], "fit", *small, "--trainer.max_epochs=2", largest_file=40_000)
    else:
        few = ("--evaluation.parts=[reconstruction]", "--evaluation.num_images=9", "--evaluation.posterior_steps=1")
        code, output = killing.run(run.parents[3], "test", CHECKPOINT, *few, largest_file=30_000)
        assert "last.evaluation.json, .csv and .npz: all metrics" in output, "the numbers are not lost"
        assert (run.parent / "checkpoints" / "last.evaluation.json").is_file()
    assert "Traceback" not in output
    assert "File too large" in output
    said = [line for line in output.splitlines() if line.startswith("encdec: ")]
    if command == "fit":
        assert code == 1
        folder = Path("lightning_logs", "decoder", "version_0")
        assert said == [f"encdec: error: a file in {folder} can't be written (File too large); what was saved before "
                        "is still there. Make room."]  # fmt: skip


# ---------------------------------------------------------------------- one file, written whole


def test_a_file_of_another_process_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(7 * 3, dtype=torch.float32).reshape(7, 3)
    parts = [{"x": rows[rank::3].clone()} for rank in range(3)]
    for block in (1, 2, 100):
        monkeypatch.setattr(prediction_rows, "block_size", lambda _, block=block: block)
        assert torch.equal(prediction_rows.interleaved(parts, tmp_path / "whole")["x"], rows)


def test_two_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    path, began, go_on = tmp_path / "file", threading.Event(), threading.Event()

    def first() -> None:
        with written_whole(path) as file:
            file.write(b"1" * 1000)
            began.set()
            go_on.wait(10)
            file.write(b"1" * 1000)

    def second() -> None:
        with written_whole(path) as file:
            file.write(b"2")

    threads = [threading.Thread(target=writer) for writer in (first, second)]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive(), "it waits"
    assert not path.exists()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert path.read_bytes() == b"2", "the last one's, and whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half" * 1000)
    with written_whole(tmp_path / "file") as file:
        file.write(b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space left on device"), None])
def test_an_error_of_torch_that_is_the_disks_is_a_sentence(raised: OSError | None, tmp_path: Path) -> None:
    class Full(io.RawIOBase):
        def write(self, content: Any) -> int:
            if raised is not None:
                raise raised
            raise OSError("odd")

    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(UserError, match=r"file can't be written \((No space|odd)"), written_whole(tmp_path / "file"):
        torch.save({"weights": torch.zeros(1000)}, Full())  # type: ignore[arg-type]
    assert (tmp_path / "file").read_bytes() == b"before"
