"""What `import encdec` gives: the command's numbers without a command, floors, images to look at."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import encdec
from encdec.data import Digits
from encdec.evaluation.context import Context
from encdec.evaluation.view import View
from encdec.paradigms import AE, VAE, ConditionalDecoder, Paradigm
from encdec.testing.small import Blobs
from encdec.types import UserError

from .conftest import ROOT, RunCLI
from .test_docs import blocks

FEW: dict[str, Any] = {"num_images": 20, "num_samples": 100, "posterior_samples": 4, "prior_samples": 50,
                       "posterior_steps": 3}  # fmt: skip
TIMES = {"latent_milliseconds"}


def test_only_what_is_public_is_listed_and_importing_it_is_instant() -> None:
    code = (
        "import sys, encdec; names = dir(encdec); assert 'torch' not in sys.modules; "
        "print(names); print([getattr(encdec, name) for name in names][0]); "
        "print(encdec.data.Digits.__name__, encdec.paradigms.VAE.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert out[0] == str(sorted(["__version__", *encdec.__all__]))
    assert out[2] == "Digits VAE"
    assert all(not name.startswith("_") for name in encdec.__all__)
    with pytest.raises(AttributeError, match="encdec has no 'lode'; it has data, evaluate,"):
        encdec.lode  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("model", ["--model=VAE", "--model=EncoderlessVAE"])
def test_the_numbers_are_those_of_the_command(model: str, cli: RunCLI) -> None:
    small = ("--model.latent_dim=3", "--model.decoder.hidden=[8]", "--trainer.max_epochs=2", "--name=run")
    cli("fit", "--data=Digits", model, *small)
    path = Path("lightning_logs/run/version_0/checkpoints/last.ckpt")
    cli("test", f"--ckpt_path={path}", *(f"--evaluation.{name}={value}" for name, value in FEW.items()))
    written = json.loads(path.with_name("last.evaluation.json").read_text())
    loaded = encdec.load(path)
    metrics = encdec.evaluate(loaded, Digits(), **FEW)
    assert metrics.values.keys() == written["metrics"].keys()
    assert metrics.undefined == written["undefined"]
    for name, of_command in written["metrics"].items():
        metric = metrics[name]
        assert metric.unit == of_command["unit"]
        for key in ("value", "standard_error", "reference") if name not in TIMES else ():
            ours, theirs = getattr(metric, key), of_command.get(key)
            assert (ours is None) == (theirs is None), (name, key)
            assert ours is None or ours == pytest.approx(theirs, rel=1e-6, abs=1e-9), (name, key)
        assert metric.reference_name == of_command.get("reference_name", "")
    assert repr(metrics).splitlines()[0] == f"loss: {metrics['loss']}"
    assert not loaded.floors
    assert not loaded.training


def test_a_question_is_answered_alone_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, data = AE(image_shape=(1, 8, 8), num_classes=3, latent_dim=2), Blobs()
    model.train()
    state, ex_post = torch.random.get_rng_state(), model.ex_post
    metrics = encdec.evaluate(model, data, ["reconstruction"], cache_dir=str(tmp_path), **FEW)
    assert "mse" in metrics
    assert "nll_bound" not in metrics
    assert not [name for name in metrics.values if name.startswith("frechet")]
    assert model.training
    assert model.decoder.training
    assert model.ex_post is ex_post
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(UserError, match="there is no metric 'psnr': the metrics are loss, mse"):
        metrics["psnr"]
    diverse = encdec.evaluate(model, data, "diversity", sampler="gaussian", cache_dir=str(tmp_path), **FEW)
    assert "recall_classifier" in diverse
    assert model.ex_post is ex_post


def test_a_model_is_measured_on_other_images_of_its_shape() -> None:
    model = VAE.for_data(Blobs(num_images=30), latent_dim=2)
    assert "mse" in encdec.evaluate(model, Blobs(num_images=60), [])


def wrong_model() -> Paradigm:
    return VAE(image_shape=(1, 9, 9), latent_dim=2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: encdec.evaluate(wrong_model(), Digits()), r"image_shape \(1, 9, 9\), but it is evaluated on Digits"),
        (lambda: encdec.evaluate(wrong_model(), [torch.rand(1)]), "a data module are needed, such as VAE and Digits"),  # type: ignore[arg-type]
        (lambda: encdec.evaluate(VAE.for_data(Digits()), Digits(), ["sample"]), "'sample' is not a question; did you"),
        (lambda: encdec.evaluate(VAE.for_data(Digits()), Digits(), num_images=0), "num_images is 0"),
        (lambda: encdec.evaluate(ConditionalDecoder.for_data(Digits()), Digits(), sampler="gaussian"), "has none"),
        (lambda: encdec.evaluate(VAE.for_data(Digits()), Digits(), sampler="gausian"), "did you mean gaussian"),  # type: ignore[arg-type]
        (lambda: encdec.evaluate(VAE.for_data(Digits()), Digits(), feature_space="clip"), "'clip' is not one of auto"),  # type: ignore[arg-type]
        (lambda: VAE.for_data(torch.rand(3, 1, 8, 8)), "VAE.for_data: data must be a data module"),  # type: ignore[arg-type]
        (lambda: encdec.floors(torch.rand(3, 1, 8, 8)), "data must be a data module, such as Digits"),  # type: ignore[arg-type]
        (lambda: encdec.floors(Digits(), "tets"), "'tets', but it must be one of train, val, test"),  # type: ignore[arg-type]
        (lambda: encdec.show(torch.rand(1, 8, 8)), r"one is of shape \(1, 8, 8\); images\[None\]"),
        (lambda: encdec.show(torch.rand(0, 1, 8, 8)), r"N at least 1"),
        (lambda: encdec.show(torch.rand(2, 1, 8, 8), torch.rand(3, 1, 8, 8)), "the same in all of them"),
        (lambda: encdec.show(255 * torch.ones(2, 1, 8, 8)), "torch.float32 up to 255: images / 255"),
        (lambda: encdec.show(torch.ones(2, 1, 8, 8).byte()), "torch.uint8"),
        (lambda: encdec.show(torch.ones(2, 1, 8, 8) / 0), "must be finite"),
        (lambda: encdec.show(torch.rand(2, 1, 8, 8), file="a.jpg"), "a.jpg would hold a PNG"),
        (lambda: encdec.show(torch.rand(2, 1, 8, 8), num_images=0), "num_images is 0"),
        (lambda: Digits().show(4, "tset"), "'tset', but it must be one of train, val and test"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(call: Any, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def test_floors_are_the_losses_of_the_mean_image_and_of_the_class_means() -> None:
    data = Digits()
    train, test = (torch.cat([b.x for b in data._loader(split)]).double() for split in ("train", "test"))
    y_train, y_test = (data.splits[split].labels for split in ("train", "test"))
    means = torch.stack([train[y_train == label].mean(0) for label in range(10)])
    found = encdec.floors(data, components=3)
    assert found.mse["none"] == pytest.approx(float(((test - train.mean(0)) ** 2).mean()), rel=1e-6)
    assert found.mse["label"] == pytest.approx(float(((test - means[y_test]) ** 2).mean()), rel=1e-6)
    axes = torch.linalg.svd((train - train.mean(0)).flatten(1), full_matrices=False).Vh[:3]
    centred = (test - train.mean(0)).flatten(1)
    assert found.pca_mse == pytest.approx(float(((centred - centred @ axes.T @ axes) ** 2).mean()), rel=1e-6)
    assert encdec.floors(data, "train").mse["none"] == pytest.approx(float(train.var(0, correction=0).mean()), rel=1e-6)
    lines = str(found).splitlines()
    assert lines[0].startswith(f"mean image      MSE {found.mse['none']:.5g} per pixel, BCE")
    assert lines[-1] == f"PCA-3           MSE {found.pca_mse:.5g} per pixel"


def test_images_are_shown_pixel_by_pixel(tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    file = tmp_path / "grid.png"
    picture = encdec.show(x, 1 - x, columns=2, file=file)
    assert isinstance(picture, Image.Image)
    assert picture._repr_png_(), "as notebooks show it"
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(picture.height, -1, 3)[..., 0]
    factor = picture.height // 37  # four rows of 8 pixels and lines of 1 between them
    assert pixels.shape == (37 * factor, 19 * factor)
    small = pixels[::factor, ::factor]
    assert torch.equal(small.repeat_interleave(factor, 0).repeat_interleave(factor, 1), pixels), "without blur"
    levels = x.mul(255).round().byte()
    assert torch.equal(small[1:9, 1:9], levels[0, 0])
    assert torch.equal(small[1:9, 10:18], levels[1, 0])
    assert torch.equal(small[10:18, 1:9], (1 - x[0, 0]).mul(255).round().byte())
    assert Image.open(file).tobytes() == picture.tobytes()


def test_a_data_set_shows_some_of_each_class(tmp_path: Path) -> None:
    picture = Digits().show(10, file=tmp_path / "digits.png")
    assert picture.width > picture.height
    assert (tmp_path / "digits.png").is_file()
    content = io.BytesIO()
    Digits().show(10, "test").save(content, format="PNG")
    assert content.getvalue() != (tmp_path / "digits.png").read_bytes()


def test_labels_are_read_as_the_evaluation_says() -> None:
    model, data = ConditionalDecoder.for_data(Digits()), Digits()
    assert Context(View(model), data.splits["train"], data.splits["test"]).view.reads_labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's own
def test_the_page_runs_from_top_to_bottom(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config=configs/vae.yaml", "--name=tiny", "--trainer.max_epochs=1")
    scope: dict[str, Any] = {}
    page = blocks(ROOT / "docs" / "python.md", "python")
    assert len(page) > 6
    for code in page:
        exec(code.replace("max_epochs=20", "max_epochs=1"), scope)
    assert scope["lines"].shape == (4, 9, 1, 8, 8)
    assert scope["images"].shape == scope["x"].shape
    assert "frechet_classifier" in scope["metrics"]
    assert Path("samples.png").is_file()
    assert Path("lightning_logs/tiny/version_1").is_dir()
