"""What `import encdec` gives: the command's numbers without a command, floors, images to look at."""

import inspect
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

import encdec
from encdec.callbacks import Evaluate
from encdec.cli import main
from encdec.data import Digits, ImageFolder, InMemoryImages
from encdec.evaluation.context import Context
from encdec.evaluation.view import View
from encdec.networks import MLPDecoder
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
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


X = torch.rand(3, 1, 8, 8)


def vae(**settings: Any) -> VAE:
    return VAE.for_data(Digits(), **settings)


made: Any = partial
"""Without a type, for settings of wrong ones."""


def evaluated(**settings: Any) -> Any:
    return encdec.evaluate(vae(), Digits(), **settings)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: encdec.evaluate(wrong_model(), Digits()), r"image_shape \(1, 9, 9\), but it is evaluated on Digits"),
        (lambda: encdec.evaluate(wrong_model(), [X]), "a data module are needed, such as VAE and Digits"),  # type: ignore[arg-type]
        (lambda: evaluated(questions=["sample"]), "'sample' is not a question; did you"),
        (lambda: evaluated(questions=3), "questions must be a list of them, but it is of type int"),
        (lambda: evaluated(num_images=0), "num_images is 0"),
        (lambda: evaluated(num_images=2.5), "evaluate: num_images is 2.5, but it must be a whole number"),
        (lambda: evaluated(num_samples="a"), "evaluate: num_samples is 'a', but it must be a whole number"),
        (lambda: evaluated(cache_dir=3), "cache_dir is 3, but it must be text, or None"),
        (lambda: evaluated(progress="no"), "progress is 'no', but it must be True or False"),
        (lambda: encdec.evaluate(ConditionalDecoder.for_data(Digits()), Digits(), sampler="gaussian"), "has none"),
        (lambda: evaluated(sampler="gausian"), "did you mean gaussian"),
        (lambda: evaluated(feature_space="clip"), "'clip', but it must be one of 'auto', 'inception'"),
        (lambda: encdec.floors(X), "data must be a data module, such as Digits"),  # type: ignore[arg-type]
        (lambda: encdec.floors(Digits(), "tets"), "'tets', but it must be one of 'train', 'val', 'test'; did you"),  # type: ignore[arg-type]
        (lambda: encdec.floors(Digits(), ["test"]), r"split is \['test'\], but it must be one of"),  # type: ignore[arg-type]
        (lambda: encdec.floors(Digits(), components="3"), "components is '3', but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: encdec.floors(Digits(), components=-1), "components is -1, but it can't be negative"),
        (lambda: encdec.load(3), "must be text or a pathlib.Path, but it is of type int"),  # type: ignore[arg-type]
        (lambda: encdec.load(b"a.ckpt"), "but it is of type bytes"),  # type: ignore[arg-type]
        (lambda: encdec.load(vae()), "but it is of type VAE"),  # type: ignore[arg-type]
        (lambda: encdec.load("tests"), "There is no checkpoint 'tests': give the path of a .ckpt file"),
        (lambda: encdec.export("nowhere.ckpt", 3), "but it is of type int"),  # type: ignore[arg-type]
        (lambda: encdec.plugins.load(3), "but it is of type int"),  # type: ignore[arg-type]
        (lambda: encdec.show(X[0]), r"one is of shape \(1, 8, 8\); images\[None\]"),
        (lambda: encdec.show(X[:0]), "each size at least 1"),
        (lambda: encdec.show(X[:, :, :0]), "each size at least 1"),
        (lambda: encdec.show(X, X[:2]), "as many images below as above"),
        (lambda: encdec.show(X, X[..., :7]), r"of shape \(3, 1, 8, 7\) and the first of \(3, 1, 8, 8\)"),
        (lambda: encdec.show(Digits()), "one is of type Digits: its own show"),  # type: ignore[arg-type]
        (lambda: encdec.show(X.numpy()), "one is of type ndarray"),  # type: ignore[arg-type]
        (lambda: encdec.show(255 * torch.ones(2, 1, 8, 8)), "up to 255: images / 255"),
        (lambda: encdec.show(torch.ones(2, 1, 8, 8).byte()), "torch.uint8: images / 255"),
        (lambda: encdec.show(X + 0j), "torch.complex64"),
        (lambda: encdec.show(torch.ones(2, 1, 8, 8) / 0), "must be finite"),
        (lambda: encdec.show(X, file="a.jpg"), "'a.jpg', but it would hold a PNG"),
        (lambda: encdec.show(X, file=3), "but it is of type int"),  # type: ignore[arg-type]
        (lambda: encdec.show(X, num_images=0), "num_images is 0"),
        (lambda: Digits().show(4, "tset"), "Digits.show: split is 'tset', but it must be one of .* did you mean test"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(call: Any, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Attribute 'decoder' is an instance of `nn.Module`")  # Lightning's own
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: vae(latent_dim="8"), r"VAE: latent_dim is '8', but it must be a whole number \(int\)\.$"),
        (lambda: vae(latent_dim=True), "latent_dim is True"),
        (lambda: vae(latent_dim=np.int64(4)), r"latent_dim is np.int64\(4\), .*: int\(…\) makes it one"),
        (lambda: vae(latentdim=4), "VAE has no setting 'latentdim'; did you mean latent_dim?"),
        (lambda: vae(beta="1"), "beta is '1', but it must be a number"),
        (lambda: vae(decoder="ConvDecoder"), "'ConvDecoder', but it must be a class of Decoder, such as MLPDecoder"),
        (lambda: vae(decoder=MLPDecoder(4, (1, 8, 8))), "decoder is of type MLPDecoder, but it must be a class of"),
        (lambda: vae(decoder=made(MLPDecoder, hidden=64)), "MLPDecoder: hidden is 64, but it must be a list of"),
        (lambda: vae(decoder=made(MLPDecoder, hiden=[6])), "MLPDecoder has no setting 'hiden'; did you mean hidden"),
        (lambda: vae(optimizer="Adam"), "optimizer is 'Adam', but it must be a class of Optimizer, such as Adam"),
        (lambda: vae(optimizer=made(torch.optim.Adam, lr="a")), "Adam: lr is 'a', but it must be a number"),
        (lambda: vae(lr_scheduler_interval="steps"), "one of 'step', 'epoch', or None"),
        (lambda: vae(seed=-1), "VAE: seed is -1, but a seed must lie between 0 and 4294967295"),
        (lambda: EncoderlessVAE.for_data(Digits(), latents="fixd"), "did you mean fixed?"),
        (lambda: VAE(image_shape=(8, 8)), r"\(8, 8\), but it must be a tuple of 3 whole numbers"),
        (lambda: VAE(image_shape=(0, 8, 8)), r"\(0, 8, 8\), but it must be channels, height and width"),
        (lambda: VAE.for_data(X), "VAE.for_data: data must be a data module"),  # type: ignore[arg-type]
        (lambda: Digits(batch_size="a"), "Digits: batch_size is 'a', but it must be a whole number"),  # type: ignore[arg-type]
        (lambda: Digits(batch_size=2.5), "batch_size is 2.5"),  # type: ignore[arg-type]
        (lambda: Digits(drop_last="no"), "drop_last is 'no', but it must be True or False"),  # type: ignore[arg-type]
        (lambda: Digits(split_seed=2**40), "split_seed is 1099511627776, but a seed must lie"),
        (lambda: ImageFolder(3), "ImageFolder: path is 3, but it must be text"),  # type: ignore[arg-type]
        (lambda: ImageFolder("a", size="64"), "'64', but it must be a whole number .*, or a list of"),  # type: ignore[arg-type]
        (lambda: MLPDecoder(4, (1, 8, 8), hidden=64), "MLPDecoder: hidden is 64"),  # type: ignore[arg-type]
        (lambda: InMemoryImages((255 * X).byte(), [0, 1, 2]), "labels as a tensor, not as a list"),  # type: ignore[arg-type]
        (lambda: InMemoryImages.from_floats([X], torch.zeros(3)), "as a tensor or an array, but .* is a list"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_settings_of_wrong_types_are_refused_where_they_are_given(call: Any, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def test_settings_that_signatures_allow_are_taken() -> None:
    model = vae(beta=2, decoder=lambda features, shape: MLPDecoder(features, shape, hidden=(4,)), latent_dim=3)
    assert model.sample(2).shape == (2, 1, 8, 8)
    assert VAE(image_shape=[1, 8, 8]).image_shape == (1, 8, 8)
    partials = vae(decoder=made(MLPDecoder, hidden=[4]), optimizer=made(torch.optim.Adam, lr=1, betas=[0.5, 0.9]))
    assert partials.sample(2).shape == (2, 1, 8, 8)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's own
def test_a_checkpoint_of_a_path_and_of_numpy_numbers_is_read_again(tmp_path: Path) -> None:
    """Its settings are plain values, whatever they were made of; what else it held would be refused as code."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in range(8):
        Image.new("L", (8, 8), 30 * name).save(folder / f"{name}.png")
    data = ImageFolder(folder, size=8, mode="grey", batch_size=4)  # type: ignore[arg-type]
    model = VAE.for_data(data, beta=np.float64(0.5), latent_dim=2)
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False, accelerator="cpu")  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = encdec.load(tmp_path / "a.ckpt")
    assert isinstance(loaded, VAE)
    assert loaded.beta == 0.5


def test_the_command_line_in_python_wants_a_list_of_words(capsys: pytest.CaptureFixture[str]) -> None:
    for args, expected in (("fit", "is the text 'fit'"), (3, "of type int"), (["fit", 3], "write it as text, '3'")):
        with pytest.raises(SystemExit) as end:
            main(args)  # type: ignore[arg-type]
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("encdec: error: main takes a list of words")
        assert expected in line


def test_evaluations_have_the_same_defaults_everywhere() -> None:
    """`encdec.evaluate` repeats them, because importing encdec imports nothing else."""
    of_call, of_test, of_context = (
        {name: one.default for name, one in inspect.signature(made).parameters.items()}
        for made in (encdec.evaluate, Evaluate, Context)
    )
    shared = of_call.keys() & of_test.keys()
    assert shared == of_test.keys() - {"parts", "details"}
    assert {name: of_call[name] for name in shared} == {name: of_test[name] for name in shared}
    counts = shared & of_context.keys()
    assert counts >= {"num_images", "num_samples", "posterior_samples", "prior_samples", "posterior_steps"}
    assert {name: of_context[name] for name in counts} == {name: of_test[name] for name in counts}


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


def test_the_folders_of_a_picture_are_made_as_those_of_predictions_are(tmp_path: Path) -> None:
    encdec.show(X, file=tmp_path / "new" / "deep" / "grid.png")
    assert (tmp_path / "new" / "deep" / "grid.png").is_file()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for place in ("folder.png", "file/grid.png"):
        with pytest.raises(UserError, match=rf"{place} can't be written \(.*\); what was there before is still there"):
            encdec.show(X, file=tmp_path / place)


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
