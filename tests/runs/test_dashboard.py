"""TensorBoard's first charts, the Text tab and the columns of HParams, as a run writes them."""

from pathlib import Path

import pytest
from tensorboard.plugins.hparams import metadata

from encdec.callbacks.overview import overview
from encdec.callbacks.run_text import ABOUT, VERDICT
from tests import killing
from tests.conftest import RunCLI, events

RUN = ("--trainer.max_epochs=3", "--images.every_n_epochs=10", "--checkpoint.seconds_between=0")


def texts(run: Path, tag: str) -> list[tuple[int, str]]:
    """Steps and words of a text."""
    return [
        (event.step, event.tensor_proto.string_val[0].decode()) for event in events(run).Tensors(f"{tag}/text_summary")
    ]


def test_a_chart_has_its_metric_its_floor_and_its_gap() -> None:
    metrics = {"val/loss": 3.0, "val/mse": 0.5, "val/mse_floor": 0.4, "val/mse_gap": 0.1, "val/mse_zeros": 0.7,
               "val/mse_gap_zeros": 0.3, "val/mse_pca": 0.2, "val/kl": 9.0, "train/mse": 0.1}  # fmt: skip
    assert overview(metrics) == {
        "": {"Overview/loss": 3.0, "Overview/mse": 0.5, "Overview/mse_zeros": 0.7},
        "floor": {"Overview/mse": 0.4, "Overview/mse_zeros": 0.4},
        "gap": {"Overview/mse": 0.1, "Overview/mse_zeros": 0.3},
        "pca": {"Overview/mse": 0.2},
    }


@pytest.mark.parametrize(
    ("config", "metrics", "lines"),
    [
        ("vae_noenc", {"loss", "mse", "bce"}, {"floor", "gap"}),
        ("vae", {"loss", "mse", "bce", "elbo"}, {"floor", "gap", "mean_image", "pca"}),
        ("decoder", {"loss", "mse", "bce"}, {"floor", "gap", "mean_image"}),
        ("gan", {"loss", "sample_variance"}, set()),
    ],
)
def test_the_first_charts_repeat_the_validations(
    config: str, metrics: set[str], lines: set[str], cli: RunCLI, project: Path
) -> None:
    cli("fit", f"--config=configs/{config}.yaml", *RUN)
    run = project / f"lightning_logs/{config}/version_0"
    log = events(run)
    first = {tag for tag in log.Tags()["scalars"] if tag.startswith("Overview/")}
    assert first == {f"Overview/{name}" for name in metrics}
    assert sorted(log.Tags()["scalars"])[: len(first)] == sorted(first), "TensorBoard sorts by name"
    for tag in first:
        own = [(point.step, point.value) for point in log.Scalars(tag)]
        assert own == [(p.step, p.value) for p in log.Scalars(f"val/{tag.removeprefix('Overview/')}")]
        assert len(own) == 3
    assert {path.parent.name for path in run.glob("*/events*")} == lines
    for line in lines:
        beside = events(run / line)
        for tag in beside.Tags()["scalars"]:
            same = log.Scalars(f"val/{tag.removeprefix('Overview/')}_{line}")
            assert [(p.step, p.value) for p in beside.Scalars(tag)] == [(p.step, p.value) for p in same]
    assert "no error has a floor" in texts(run, ABOUT)[0][1] or lines


@pytest.mark.slow
def test_a_run_that_was_killed_says_everything_once(project: Path) -> None:
    whole, killed = ("fit", "--resume", "--config=configs/vae_noenc.yaml", *RUN, "--name=whole"), "lightning_logs/cut"
    cut = (*whole[:-1], "--name=cut")
    assert killing.run(project, *whole)[0] == 0
    assert killing.run(project, *cut, moment="the end of a validation", call=2)[0] != 0
    assert not texts_or_none(project / killed / "version_0", VERDICT)
    code, output = killing.run(project, *cut)
    assert code == 0, output
    a, b = project / "lightning_logs/whole/version_0", project / killed / "version_0"
    for tag in (ABOUT, VERDICT):
        assert texts(b, tag) == texts(a, tag)
        assert len(texts(b, tag)) == 1
    assert killing.run(project, *cut)[0] == 0, "there is nothing left to do"
    assert len(texts(b, VERDICT)) == 1
    for line in ("", "floor", "gap"):
        tag = "Overview/mse"
        points = [[(p.step, p.value) for p in events(run / line).Scalars(tag)] for run in (a, b)]
        assert points[0] == points[1], "no step is there twice"


def texts_or_none(run: Path, tag: str) -> list[tuple[int, str]]:
    return texts(run, tag) if f"{tag}/text_summary" in events(run).Tags()["tensors"] else []


def test_the_text_is_what_the_terminal_says(cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli("fit", "--config=configs/vae_noenc.yaml", *RUN)
    out, run = capfd.readouterr().out, project / "lightning_logs/vae_noenc/version_0"
    ((step, verdict),) = texts(run, VERDICT)
    assert step == 33
    sentence = next(line for line in out.splitlines() if line.startswith("best: val/mse – "))
    assert sentence in verdict
    assert out.splitlines()[0].partition(",")[0] == "EncoderlessVAE"
    ((step, about),) = texts(run, ABOUT)
    assert step == 0
    assert out.splitlines()[0] in about
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in verdict.splitlines() if line.startswith("|")]
    assert rows[0][1:] == ["best (epoch 3)", "last (epoch 3)", "floor (mean image)", "unit"]
    assert {len(row) for row in rows} == {5}
    assert [row[-1] for row in rows if row[0] == "val/mse"] == ["per pixel"]


def test_hparams_lists_what_matters_and_ticks_the_model(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config=configs/vae.yaml", "--model.beta=2.5", *RUN)
    written = events(project / "lightning_logs/vae/version_0").summary_metadata
    experiment = metadata.parse_experiment_plugin_data(written[metadata.EXPERIMENT_TAG].plugin_data.content)
    columns = {column.name: column.differs for column in experiment.hparam_infos}
    assert {name for name, is_ticked in columns.items() if is_ticked} == {
        "data", "model", "model/latent_dim", "model/optimizer/lr", "parameters"
    }  # fmt: skip
    assert {"model/beta", "data/batch_size", "max_epochs"} <= columns.keys()
    assert not [name for name in columns if "fused" in name or "image_shape" in name or "data_dir" in name]
    assert [metric.name.tag for metric in experiment.metric_infos] == [
        "val/loss", "val/mse", "val/bce", "val/elbo", "val/explained_variance", "val/kl"
    ]  # fmt: skip
    session = metadata.parse_session_start_info_plugin_data(
        written[metadata.SESSION_START_INFO_TAG].plugin_data.content
    )
    assert session.hparams["model/beta"].number_value == 2.5
    assert session.hparams["model"].string_value == "VAE"
