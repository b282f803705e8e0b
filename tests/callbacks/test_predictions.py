"""What `predict` writes: as many samples as asked for, traversals, and what it finds of new pictures."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import encdec
from encdec.cli import main
from encdec.data import Digits
from tests.conftest import ON_CPU, ROOT, RunCLI, refused

FIT = ("--model.latent_dim=3", "--data=Digits", "--trainer.max_epochs=1", "--name=run", "--floors.enabled=false")
RUN = Path("lightning_logs/run/version_0")
CHECKPOINT = f"--ckpt_path={RUN}/checkpoints/last.ckpt"
PICTURES = ("--data=ImageFolder", "--data.path=new")


Trained = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains a model once; the folder that its run lies in."""
    made: dict[str, Path] = {}

    def run(model: str) -> Path:
        if model not in made:
            folder = made[model] = tmp_path_factory.mktemp(model)
            (folder / "plugins").symlink_to(ROOT / "plugins")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                main(["fit", f"--model={model}", *FIT, *ON_CPU])
        return made[model]

    return run


@pytest.fixture
def trained(runs: Callable[[str], Path], project: Path) -> Trained:
    """Puts the run of a model into the project, and gives the model."""

    def copy(model: str = "VAE") -> Any:
        shutil.copytree(runs(model) / "lightning_logs", project / "lightning_logs")
        return encdec.load(RUN / "checkpoints/last.ckpt")

    return copy


def tensors(name: str, folder: Path = RUN / "predictions") -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(folder / f"{name}.pt", weights_only=True)
    return found


def grey(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path)))


def write_new(count: int, folder: str = "new") -> Tensor:
    """Grey pictures of the digits' size, some of them in a folder below; their pixels in the order of their paths."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for number, one in enumerate(pixels):
        path = Path(folder, "a" if number % 2 else "b", f"{number:04}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    order = [*range(1, count, 2), *range(0, count, 2)]
    return torch.from_numpy(pixels[order]).unsqueeze(1).float() / 255


def rows() -> list[dict[str, str]]:
    with (RUN / "predictions/new/pictures.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_as_many_samples_as_asked_for_each_in_a_file_of_its_own(
    trained: Trained, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained("ConditionalDecoder")
    many = ("--predictions.num_samples=23", "--predictions.single_files=true")
    capsys.readouterr()
    cli("predict", CHECKPOINT, *many)
    out, err = capsys.readouterr()
    assert err == ""
    assert "traversals.pt, 23 files in samples/" in out
    found = tensors("samples")
    assert found["y"].tolist() == [number % 10 for number in range(23)]
    torch.testing.assert_close(found["images"], model.sample(found["y"], found["noise"]))
    files = sorted((RUN / "predictions/samples").iterdir())
    assert [path.name for path in files] == [f"{number:05}.png" for number in range(23)]
    for path, image in zip(files, found["images"], strict=True):
        pixels = grey(path)
        assert pixels.shape == (8, 8, 3), "in its own size"
        assert torch.equal(pixels[..., 0], image[0].mul(255).round().byte())
    grid = grey(RUN / "predictions/samples.png")[..., 0]
    factor = grid.shape[0] // (3 * 9 + 1)
    small = grid[::factor, ::factor]
    assert torch.equal(small.repeat_interleave(factor, 0).repeat_interleave(factor, 1), grid), "enlarged without blur"
    assert torch.equal(small[1:9, 10:18], found["images"][1, 0].mul(255).round().byte())
    cli("predict", CHECKPOINT, "--predictions.num_samples=4", "--predictions.single_files=true")
    assert (
        "19 files in samples/ in lightning_logs/run/version_0/predictions are of an earlier" in capsys.readouterr().err
    )
    assert len(tensors("samples")["y"]) == 4


def test_a_traversal_changes_one_number_of_a_latent(trained: Trained, cli: RunCLI) -> None:
    model = trained()
    cli("predict", CHECKPOINT, "--predictions.num_rows=2", "--predictions.num_steps=5")
    found, z = tensors("traversals"), tensors("reconstructions")["z"]
    assert found["images"].shape == (2, 5, 1, 8, 8)
    deviation = z.std(0, correction=0)
    assert found["dimension"].tolist() == deviation.argsort(descending=True)[:2].tolist(), (
        "what varies most comes first"
    )
    for row, dimension in zip(found["z"], found["dimension"].tolist(), strict=True):
        ends = z[:, dimension].mean() + 2 * deviation[dimension] * torch.tensor([-1, 1])
        torch.testing.assert_close(row[[0, -1], dimension], ends)
        torch.testing.assert_close(row[:, dimension].diff(), (ends[1] - ends[0]).expand(4) / 4)
        others = [number for number in range(3) if number != dimension]
        assert torch.equal(row[:, others], z[0, others].expand(5, -1)), "the first test image's"
    torch.testing.assert_close(found["images"].flatten(0, 1), model.from_latents(found["z"].flatten(0, 1)))
    assert (RUN / "predictions/traversals.png").is_file()


def test_without_latents_of_images_the_prior_is_traversed_and_without_latents_nothing(
    trained: Trained, cli: RunCLI
) -> None:
    trained("EncoderlessVAE")
    cli("predict", CHECKPOINT)
    found = tensors("traversals")
    assert found["images"].shape == (3, 9, 1, 8, 8), "one row for each number"
    for row, dimension in zip(found["z"], found["dimension"].tolist(), strict=True):
        assert row[:, dimension].mean().abs() < 0.2
        assert float(row[-1, dimension] - row[0, dimension]) == pytest.approx(4, abs=0.3), "N(0, 1)"
    shutil.rmtree("lightning_logs")
    trained("GAN")
    cli("predict", CHECKPOINT)
    names = {path.stem for path in (RUN / "predictions").iterdir()}
    assert names == {"samples", "interpolations"}


@pytest.mark.parametrize("flags", [(), ("--data.max_memory_gb=0", "--data.num_workers=0")], ids=["memory", "disk"])
def test_all_pictures_of_a_folder_have_a_row(
    flags: tuple[str, ...], trained: Trained, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained()
    cli("predict", CHECKPOINT)
    before = {path.name: path.read_bytes() for path in (RUN / "predictions").glob("*.pt")}
    x = write_new(301)
    capsys.readouterr()
    cli("predict", CHECKPOINT, *PICTURES, *flags)
    assert capsys.readouterr().err == ""
    table, arrays = rows(), np.load(RUN / "predictions/new/pictures.npz")
    files = [f"a/{number:04}.png" for number in range(1, 301, 2)] + [
        f"b/{number:04}.png" for number in range(0, 301, 2)
    ]
    assert [row["file"] for row in table] == files == arrays["files"].tolist()
    z, reconstructed = model.encode(x), model.reconstruct(x)
    torch.testing.assert_close(torch.from_numpy(arrays["z"]), z)
    torch.testing.assert_close(torch.tensor([[float(row[f"z_{i}"]) for i in range(3)] for row in table]), z)
    mse = (x - reconstructed).double().square().mean((1, 2, 3))
    torch.testing.assert_close(torch.from_numpy(arrays["mse"]).double(), mse)
    kl = 0.5 * (model.posterior(_batch(x)).mean ** 2).sum(1)  # no more than all of it
    assert (torch.tensor([float(row["kl"]) for row in table]) >= kl.detach() - 1e-4).all()
    for row in table:
        assert float(row["loss"]) == pytest.approx(float(row["bce"]) + float(row["kl"]), rel=1e-5)
    torch.testing.assert_close(tensors("reconstructions", RUN / "predictions/new")["x"], x)
    after = {path.name: path.read_bytes() for path in (RUN / "predictions").glob("*.pt")}
    assert after == before, "those of the test split stay"


def _batch(x: Tensor) -> Any:
    from encdec.types import Batch

    return Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))


def test_a_single_picture_of_another_size_is_made_to_fit(trained: Trained, cli: RunCLI) -> None:
    model = trained()
    Path("new").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("new/only.png")
    cli("predict", CHECKPOINT, *PICTURES)
    (row,) = rows()
    data = encdec.data.ImageFolder("new", size=8, mode="grey")
    (images, _) = data.all_pictures()
    (x,) = images.stream([torch.tensor([0])])
    assert row["file"] == "only.png"
    assert float(row["z_0"]) == pytest.approx(float(model.encode(x / 255)[0, 0]), rel=1e-4)
    assert not (RUN / "predictions/new/interpolations.pt").exists(), "one picture is no line"


def test_a_checkpoint_without_its_run_takes_new_pictures(trained: Trained, cli: RunCLI) -> None:
    trained()
    write_new(5)
    (RUN / "checkpoints/last.ckpt").rename("away.ckpt")
    cli("predict", "--ckpt_path=away.ckpt", *PICTURES, "--predictions.output_dir=out")
    assert len(Path("out/pictures.csv").read_text(encoding="utf-8").splitlines()) == 6


@pytest.mark.parametrize(
    ("model", "flags", "sentence"),
    [
        ("VAE", ("--data.size=16",), "whose images are grey and have 8×8 pixels: leave data.size and data.mode out"),
        ("VAE", ("--data.mode=null",), "whose images are grey and have 8×8 pixels: leave data.size and data.mode out"),
        (
            "VAE",
            ("--sampler=gaussian",),
            "is fitted to the latents of the training images, which are not among new pic",
        ),
        ("VAE", ("--predictions.num_samples=0",), "num_samples is 0, but it must be greater than zero"),
        ("VAE", ("--predictions.num_steps=1",), "num_steps is 1, but a line has both of its ends"),
        ("VAE", ("--data.path=nowhere",), "'nowhere' is not a folder"),
        ("VAE", ("--data.path=empty",), "empty has no pictures"),
        (
            "EncoderlessVAE",
            (),
            "EncoderlessVAE has no latents of images, so there is nothing to predict of new pictures",
        ),
        ("CVAE", (), "CVAE reads labels, which new pictures do not have"),
    ],
)
def test_what_can_not_be_predicted_is_one_sentence(
    model: str, flags: tuple[str, ...], sentence: str, trained: Trained, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(model)
    write_new(3)
    Path("empty").mkdir()
    capsys.readouterr()
    code = 1 if "path" in str(flags) else 2
    assert sentence in refused(capsys, "predict", CHECKPOINT, *PICTURES, *flags, code=code)
    assert not (RUN / "predictions").exists()


def test_damaged_new_pictures_are_named_with_what_to_do(
    trained: Trained, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    trained()
    write_new(3)
    Image.new("L", (64, 64), 77).save("new/a/cut.jpg")
    Path("new/a/cut.jpg").write_bytes(Path("new/a/cut.jpg").read_bytes()[:-200])
    capsys.readouterr()
    err = refused(capsys, "predict", CHECKPOINT, *PICTURES, code=1)
    assert f"error: ImageFolder: {Path('new/a/cut.jpg')} (picture 1) can't be decoded" in err
    assert "replace or delete it, or set data.skip_damaged to true, which leaves out what can't be decoded." in err
    Path("new/empty.png").write_bytes(b"")
    Path("new/notes.png").write_text("no picture")
    err = refused(capsys, "predict", CHECKPOINT, *PICTURES, code=1)
    assert "error: ImageFolder: 3 pictures can't be used: " in err
    assert f"{Path('new/empty.png')} (picture" in err
    assert f"{Path('new/notes.png')} (picture" in err
    assert not (RUN / "predictions").exists()
    cli("predict", CHECKPOINT, *PICTURES, "--data.skip_damaged=true")
    assert [row["file"] for row in rows()] == ["a/0001.png", "b/0000.png", "b/0002.png"]


def test_a_folder_with_splits_is_predicted_as_before(tmp_path: Path, trained: Trained, cli: RunCLI) -> None:
    trained()
    write_new(9, "new/train")
    write_new(4, "new/test")
    cli("predict", CHECKPOINT, *PICTURES, "--data.size=8", "--data.mode=grey", "--data.labels=none")
    assert len(tensors("reconstructions")["x"]) == 4
    assert not (RUN / "predictions/new").exists()


def test_the_data_of_the_run_are_predicted_as_before(trained: Trained, cli: RunCLI) -> None:
    trained()
    cli("predict", CHECKPOINT, "--data=Digits")
    assert len(tensors("reconstructions")["x"]) == len(Digits().splits["test"].labels)
