"""What a run shows: TensorBoard's scalars, pictures, layout and hyper-parameters, and the terminal."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import encdec
from encdec.data import Digits
from encdec.evaluation.grids import shown_images
from encdec.networks import MLPDecoder, MLPEncoder
from encdec.paradigms import ConditionalDecoder
from encdec.training.progress import TrainingCurve
from encdec.types import Batch, Losses
from tests.conftest import RunCLI, events

RUN = ("--trainer.max_epochs=3", "--trainer.log_every_n_steps=4", "--images.every_n_epochs=1")


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ("ae", set()),
        ("ae_zeros", {"mse_zeros", "bce_zeros"}),
        ("decoder", set()),
        ("vae", {"kl", "elbo"}),
        ("vae_noenc", set()),
        ("autodecoder", {"penalty"}),
        ("energy_score", set()),
        ("mmd", {"mmd"}),
        ("drifting", {"drift"}),
        ("glo", set()),
        ("rae", {"penalty", "decoder_l2"}),
        ("wae", {"mmd"}),
        ("gan", set()),
    ],
)
def test_scalars_have_the_same_names_for_every_paradigm(config: str, own: set[str], cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", f"configs/{config}.yaml", *RUN)
    scalars = set(events(project / f"lightning_logs/{config}/version_0").Tags()["scalars"])
    variants = ["", "_zeros"] if "mse_zeros" in own else [""]
    floors = {"bce_floor"} | {f"{name}{v}" for name in ("bce_gap", "explained_variance") for v in variants}
    if config in ("ae", "vae", "autodecoder", "glo", "rae", "wae"):  # conditioned on the image
        floors |= {"mse_mean_image", "mse_pca"}
    else:
        floors |= {"mse_floor"} | {f"mse_gap{v}" for v in variants}
    if config == "decoder":
        floors |= {"mse_mean_image"}
    if config in ("energy_score", "mmd", "drifting", "gan"):  # pairs no output with an image
        floors = {"sample_variance"}
    outputs = {"mse", "bce"} if config not in ("mmd", "drifting", "gan") else set()
    expected = {f"val/{name}" for name in {"loss"} | outputs | own | floors}
    assert {name for name in scalars if name.startswith("val/")} == expected
    assert {"images_per_second", "train/loss", "epoch"} <= scalars
    assert ("train/mse_floor" in scalars) == ("val/mse_floor" in expected)
    players = {"loss_critic", "r1", "real", "fake"} if config == "gan" else set()
    assert {f"train/{name}" for name in players} <= scalars
    assert any(name.startswith("lr-Adam") for name in scalars)


def test_floors_are_those_of_the_split_that_is_measured(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/decoder.yaml", *RUN)
    run = events(project / "lightning_logs/decoder/version_0")
    for stage in ("train", "val"):
        measured = list(getattr(Digits(), f"{stage}_dataloader")())
        x, y = torch.cat([b.x for b in measured]), torch.cat([b.y for b in measured])
        train = list(Digits().train_dataloader())
        train_x, train_y = torch.cat([b.x for b in train]), torch.cat([b.y for b in train])
        class_means = torch.stack([train_x[train_y == label].double().mean(0) for label in range(10)])
        floor = ((x - class_means[y]) ** 2).mean().item()
        scalars = {
            name: run.Scalars(f"{stage}/{name}") for name in ("mse", "mse_floor", "mse_gap", "explained_variance")
        }
        variance = ((x - train_x.double().mean(0)) ** 2).mean().item()
        for mse, logged, gap, explained in zip(*scalars.values(), strict=True):
            assert logged.value == pytest.approx(floor, rel=1e-5)
            assert gap.value == pytest.approx(mse.value - floor, abs=1e-6)
            assert explained.value == pytest.approx(1 - mse.value / variance, abs=1e-5)
    pictures = {name: run.Images(f"images/{name}")[0] for name in ("mean_image", "class_means")}
    drawn = np.asarray(Image.open(io.BytesIO(pictures["class_means"].encoded_image_string)))
    scale = drawn.shape[1] // 91  # 10 classes of 8 pixels with a line of 1 pixel around each
    third = drawn[::scale, ::scale, 0][1:9, 19:27] / 255
    np.testing.assert_allclose(third, class_means[2, 0].numpy(), atol=1 / 255)


def test_floors_can_be_switched_off(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", "--floors.enabled=false", *RUN)
    scalars = events(project / "lightning_logs/vae/version_0").Tags()["scalars"]
    assert not [name for name in scalars if "floor" in name or "explained" in name]


def test_scalars_are_means_over_the_split(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", *RUN, "--data.batch_size=100")
    paradigm = encdec.load(project / "lightning_logs/vae/version_0/checkpoints/last.ckpt")
    (batch,) = Digits(batch_size=1000).val_dataloader()
    with torch.no_grad():
        losses = paradigm.measured_losses(batch)
    terms = {**losses.terms, "loss": losses.loss}
    accumulator = events(project / "lightning_logs/vae/version_0")

    def last(name: str) -> float:
        return float(accumulator.Scalars(name)[-1].value)

    for name in ("loss", "bce", "kl", "elbo"):
        assert last(f"val/{name}") == pytest.approx(terms[name].mean().item(), rel=1e-5), name
    p = losses.outputs()[""].sigmoid()
    assert last("val/mse") == pytest.approx(((p - batch.x) ** 2).mean().item(), rel=1e-5)
    bce = -(batch.x * p.log() + (1 - batch.x) * (1 - p).log()).sum((1, 2, 3)).mean()
    assert last("val/bce") == pytest.approx(bce.item(), rel=1e-4)


def test_training_scalars_are_means_of_the_steps_between_points(cli: RunCLI, project: Path) -> None:
    """With a learning rate of zero and no noise each image's loss is fixed, so points must average to the epoch's."""
    cli("fit", "--config", "configs/ae.yaml", "--model.optimizer.lr=0", "--trainer.log_every_n_steps=1000",
        "--trainer.max_epochs=1", "--data.batch_size=100", "--trainer.val_check_interval=1.0")  # fmt: skip
    paradigm = encdec.load(project / "lightning_logs/ae/version_0/checkpoints/last.ckpt")
    (batch,) = Digits(batch_size=2000).train_dataloader()
    with torch.no_grad():
        loss = paradigm.measured_losses(batch).loss.mean().item()
    (point,) = events(project / "lightning_logs/ae/version_0").Scalars("train/loss")
    assert point.value == pytest.approx(loss, rel=1e-5)
    assert point.step == 13


def test_pictures_show_inputs_outputs_and_samples(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/ae_zeros.yaml", *RUN)
    accumulator = events(project / "lightning_logs/ae_zeros/version_0")
    drawn = {"images/outputs", "images/samples", "images/mean_image", "images/class_means"}
    assert set(accumulator.Tags()["images"]) == drawn
    pictures = [
        np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in accumulator.Images("images/outputs")
    ]
    assert len(pictures) == 3, "one after each validation"
    val = Digits().splits["val"]
    shown = shown_images(val.labels, 16)
    assert val.labels[shown].unique().tolist() == list(range(10)), "some of each class"
    (x,) = val.stream([shown])
    scale = pictures[0].shape[1] // 73  # 8 images of 8 pixels with a line of 1 pixel around each
    small = pictures[0][::scale, ::scale, 0]
    first_input = small[1:9, 1:9] / 255
    np.testing.assert_allclose(first_input, x[0, 0].numpy() / 255, atol=1 / 255)
    zero_fed = [small[19:27, 1 + 9 * i : 9 + 9 * i] for i in range(8)]  # the third row of the first group
    for image in zero_fed[1:]:
        np.testing.assert_array_equal(image, zero_fed[0], err_msg="fed zeros, every output is the same")


def test_samples_start_from_the_same_codes_in_every_epoch(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/decoder.yaml", "--model.optimizer.lr=0", *RUN)
    images = events(project / "lightning_logs/decoder/version_0").Images("images/samples")
    assert len({event.encoded_image_string for event in images}) == 1
    assert len(images) == 3


def test_hyperparameters_layout_and_config_are_there(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", "--model.beta=2.5", *RUN)
    run = project / "lightning_logs/vae/version_0"
    metadata = events(run).summary_metadata
    assert {"custom_scalars__config__", "_hparams_/experiment", "_hparams_/session_start_info"} <= set(metadata)
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    for part in (b"model/beta", b"VAE", b"data/batch_size", b"MLPDecoder"):
        assert part in content
    metrics = metadata["_hparams_/experiment"].plugin_data.content
    for name in (b"val/mse", b"val/bce", b"val/kl", b"val/loss"):
        assert name in metrics
    assert (run / "config.yaml").is_file()


def test_the_terminal_says_what_came_out_and_what_to_type_next(
    cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/vae_noenc.yaml", *RUN)
    out, err = capfd.readouterr()
    assert "EncoderlessVAE, 49,728 parameters, on Digits: 1,294 images of 1×8×8" in out
    words = ("best (epoch 3)", "last (epoch 3)", "val/mse", "floor", "per pixel", "nats per image")
    for part in (*words, "best: val/mse – hardly trained yet (33 steps): "):
        assert part in out
    for path in ("checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert f"lightning_logs/vae_noenc/version_0/{path}" in out
        assert (project / "lightning_logs/vae_noenc/version_0" / path).is_file()
    assert "tensorboard --logdir lightning_logs" in out
    assert err == "", "nothing that a user can do nothing about"


def test_images_per_second_counts_all_processes_and_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 batches of 10 on each of 2 processes, 1 s each, with 7 s of validation between them: 80 images in 4 s."""
    now, logged = [100.0], []
    monkeypatch.setattr("encdec.training.progress.perf_counter", lambda: now[0])
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values["images_per_second"])))
    trainer: Any = SimpleNamespace(
        world_size=2, global_step=0, log_every_n_steps=4, loggers=[logger], max_steps=-1, max_epochs=None,
        optimizers=[], strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
    )  # fmt: skip
    module = ConditionalDecoder(image_shape=(1, 2, 2))
    curve = TrainingCurve(module)
    curve.on_train_start(trainer, module)
    batch = Batch(torch.zeros(10, 1, 2, 2), torch.zeros(10), torch.zeros(10))
    for step in range(1, 9):
        now[0] += 1 if step <= 4 else 0.5
        trainer.global_step = step
        curve.take(trainer, batch, {"model": Losses(torch.ones(10))}, [], steps=True, ends=False)
        if step == 2:
            curve.on_validation_start(trainer, module)
            now[0] += 7
            curve.on_validation_end(trainer, module)
    assert logged == [(4, 20.0), (8, 40.0)]


def test_a_run_without_a_logger_or_a_bar_works(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", "--trainer.logger=false", "--trainer.enable_progress_bar=false", *RUN)
    assert list(project.rglob("last.ckpt"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize("config", ["ae", "decoder", "vae", "vae_noenc"])
def test_compiled_networks_train_to_the_same_loss_and_save_the_same_names(
    config: str, cli: RunCLI, project: Path
) -> None:
    short = (f"--config=configs/{config}.yaml", "--trainer.max_epochs=2", "--floors.enabled=false")
    cli("fit", *short, "--name=eager")
    cli("fit", *short, "--name=compiled", "--compile=default")
    checkpoints = [
        torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("eager", "compiled")
    ]
    assert checkpoints[0]["state_dict"].keys() == checkpoints[1]["state_dict"].keys()
    eager, compiled = (checkpoint["metrics"]["val/loss"] for checkpoint in checkpoints)
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_encoder_and_decoder_are_compiled_in_training_only(cli: RunCLI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of a run that was compiled says so to the commands that follow it, too."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, mode: compiled.append((type(network), mode)))
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1", "--compile=reduce-overhead")
    assert {*compiled} == {(MLPEncoder, "reduce-overhead"), (MLPDecoder, "reduce-overhead")}
    assert len(compiled) == 2
    cli("validate", "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt")
    assert len(compiled) == 2
