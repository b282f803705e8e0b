"""Pictures from memory and from workers."""

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from encdec.data import ImageFolder, InMemoryImages
from encdec.types import UserError
from tests.conftest import RunCLI
from tests.small_data import write_all


@pytest.mark.parametrize("mode", ["grey", "color"])
@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
def test_folder_gives_the_same_pixels_from_memory_and_from_workers(
    mode: str, memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    folder = str(tmp_path / "data" / "pictures")
    data = ImageFolder(folder, size=16, mode=mode, max_memory_gb=memory, batch_size=5)  # type: ignore[arg-type]
    assert isinstance(data.splits["train"], InMemoryImages) == (memory > 0)
    assert data.image_shape == (1 if mode == "grey" else 3, 16, 16)
    assert data.splits["train"].classes == ("cats", "dogs")
    reference = ImageFolder(folder, size=16, mode=mode, batch_size=5)  # type: ignore[arg-type]
    for batch, expected in zip(data.train_dataloader(), reference.train_dataloader(), strict=True):
        for value, wanted in zip(batch[:3], expected[:3], strict=True):
            assert torch.equal(value, wanted)


def test_a_streamed_folder_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    epochs = []
    for workers in (0, 1, 2):
        data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, max_memory_gb=0, num_workers=workers)
        epochs.append(torch.cat([batch.x for batch in data.train_dataloader()]))
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])


def streamed(folder: Path, **kwargs: Any) -> ImageFolder:
    return ImageFolder(str(folder / "data" / "pictures"), size=8, max_memory_gb=0, batch_size=5, **kwargs)


def test_the_processes_that_read_pictures_are_kept_and_end_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    others = set(multiprocessing.active_children())
    data = streamed(tmp_path)
    started = []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.train_dataloader()):
        batches = iter(loader)
        for _ in range(len(loader)):
            next(batches)  # and no further, as Lightning does, which knows the length
        started.append(set(multiprocessing.active_children()) - others)
    assert started[0] == started[1] == started[2]
    assert len(started[0]) == 2
    del data, loader, batches
    gc.collect()
    for process in started[0]:
        process.join(30)  # told to end, it may need a while on a machine that has much to do
    assert not started[0] & set(multiprocessing.active_children())


def test_passes_over_a_streamed_folder_may_overlap_or_be_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, monkeypatch)
    data = streamed(tmp_path)
    images = data.splits["train"]
    first, second = torch.arange(10).split(5), torch.arange(3, 9).split(3)
    expected = streamed(tmp_path, num_workers=0).splits["train"]
    for a, b, wanted_a, wanted_b in zip(
        *map(images.stream, (first, second)), *map(expected.stream, (first, second)), strict=True
    ):
        assert torch.equal(a, wanted_a)
        assert torch.equal(b, wanted_b)
    abandoned = images.stream(torch.arange(10).split(1))
    next(abandoned)
    del abandoned
    for a, wanted_a in zip(images.stream(first), expected.stream(first), strict=True):
        assert torch.equal(a, wanted_a)
    assert list(images.stream([])) == []


def test_reading_pictures_draws_nothing_from_torchs_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    for workers in (0, 1):
        state = torch.get_rng_state()
        for _ in streamed(tmp_path, num_workers=workers).val_dataloader():
            pass
        assert torch.equal(state, torch.get_rng_state())


def test_folders_can_be_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, labels="none")
    assert data.num_classes == 1
    assert sum(len(images.labels) for images in data.splits.values()) == 24
    assert not any(images.labels.any() for images in data.splits.values())


def test_train_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("test", 3)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (9, 9), i * 20).save(tmp_path / split / label / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=9, mode="grey", val_fraction=0.25)
    assert [len(images.labels) for images in data.splits.values()] == [12, 4, 6]
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(UserError, match="give both the same folders"):
        ImageFolder(str(tmp_path), size=9).load()


@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "streamed"])
def test_an_undecodable_picture_is_named(memory: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path, monkeypatch)
    broken = tmp_path / "data" / "pictures" / "cats" / "broken.png"
    broken.write_bytes((tmp_path / "data" / "pictures" / "cats" / "0.png").read_bytes()[:60])
    data = ImageFolder(str(tmp_path / "data" / "pictures"), size=8, max_memory_gb=memory)

    def read_everything() -> None:
        for split in data.splits.values():
            list(split.stream([torch.arange(len(split.labels))]))

    with pytest.raises(UserError, match=r"cats/broken\.png \(picture 12\) can't be decoded \(image file is truncated"):
        read_everything()


def test_an_empty_or_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures: put files ending in"):
        ImageFolder(str(tmp_path)).load()
    with pytest.raises(UserError, match="is not a folder"):
        ImageFolder(str(tmp_path / "nowhere")).load()


def test_a_picture_that_breaks_during_a_run_ends_it_with_a_sentence(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project / "data" / "pictures"
    broken = folder / "dogs" / "4.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--model=VAE", "--data=ImageFolder", f"--data.path={folder}", "--data.max_memory_gb=0")
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line == (
        f"encdec: error: ImageFolder: {broken} (picture 18) can't be decoded (image file is truncated): replace or "
        "delete it, or set data.skip_damaged to true, which leaves out what can't be decoded."
    )


def test_the_old_name_of_a_mode_is_taken_and_the_new_one_said(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a run of encdec 0.1, whose files have the old name, is resumed with a config that has the new one."""
    args = ("--model=EncoderlessVAE", "--data=ImageFolder", "--data.path=data/pictures", "--data.size=8",
            "--model.decoder.hidden=[4]", "--model.latent_dim=2", "--name=run")  # fmt: skip
    cli("fit", *args, "--data.mode=colour", "--trainer.max_epochs=1")
    assert capsys.readouterr().err == (
        "encdec: ImageFolder: mode colour is called color since encdec 0.2: set data.mode to color.\n"
    )
    run = Path("lightning_logs/run/version_0")
    last = run / "checkpoints" / "last.ckpt"
    held = torch.load(last, weights_only=True)
    assert held["datamodule_hyper_parameters"]["mode"] == "colour", "as it was given"
    assert "mode: colour" in (run / "config.yaml").read_text()
    cli("validate", f"--ckpt_path={last}", "--data.mode=color")
    cli("fit", f"--resume={run}", "--data.mode=color", "--trainer.max_epochs=2")
    assert "color" not in capsys.readouterr().err
    assert torch.load(last, weights_only=True)["epoch"] == 1
