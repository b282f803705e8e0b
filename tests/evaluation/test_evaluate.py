"""The one evaluation, through the command line: files, TensorBoard, repeatability, bad input."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

import encdec
from encdec import plugins
from encdec.data import Digits, InMemoryImages
from encdec.data.fingerprints import fingerprint
from encdec.evaluation import image_values
from encdec.paradigms import Paradigm
from tests import killing
from tests.conftest import ROOT, RunCLI, events, shipped

SMALL = ("--evaluation.num_images=60", "--evaluation.num_samples=80", "--evaluation.posterior_samples=4",
         "--evaluation.prior_samples=200", "--evaluation.posterior_steps=8", "--evaluation.details=true")  # fmt: skip
SHORT = ("--trainer.max_epochs=2", "--trainer.log_every_n_steps=5", "--images.every_n_epochs=100")
ALWAYS = {"loss", "path_length", "lipschitz_mean", "frechet_classifier", "kernel_classifier", "precision_classifier",
          "recall_classifier", "density_classifier", "coverage_classifier", "sample_variance", "sample_variance_z",
          "sample_mean_distance", "memorised", "parameters_generator", "parameters_training"}  # fmt: skip
WITH_LATENTS = {"mse", "bce", "mse_posterior", "elbo_posterior", "nll_posterior", "nll_bound", "neighbours_posterior",
                "active_units_posterior", "decoder_calls",
                "target_near_random", "gradient_near_random"}  # fmt: skip
FLOORS = {"bce_floor", "bce_gap", "explained_variance"}
TOLD_LESS = FLOORS | {"mse_floor", "mse_gap"}
TOLD_THE_IMAGE = FLOORS | {"mse_mean_image", "mse_pca"}
SAMPLERS = {f"{name}_classifier_{sampler}" for name in ("frechet", "recall", "coverage")
            for sampler in ("prior", "gaussian", "mixture")}  # fmt: skip
WITH_CODES = SAMPLERS | {
    "latent_milliseconds",
    "mse_encoder",
    "mse_amortisation_gap",
    "neighbours_encoder",
    "target_near_encoder",
}
WITH_POSTERIOR = {"elbo_encoder", "nll_encoder", "elbo_amortisation_gap", "active_units"}
SEARCHED = WITH_LATENTS - {"mse", "bce"}  # no output is compared with an image
SETS = {"energy_score", "mmd", "sinkhorn", "sliced_wasserstein", "drifting"}
OWN: dict[str, set[str]] = {
    "ae": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "ae_zeros": WITH_LATENTS | WITH_CODES | TOLD_LESS | {"mse_zeros", "explained_variance_zeros"},
    "decoder": WITH_LATENTS | TOLD_LESS | {"mse_mean_image"},
    "vae": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "vae_noenc": WITH_LATENTS | TOLD_LESS,
    "energy_score": WITH_LATENTS | WITH_CODES,
    "mmd": SEARCHED,
    "sinkhorn": SEARCHED,
    "sliced_wasserstein": SEARCHED,
    "drifting": SEARCHED,
    "autodecoder": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE | {"mse_paired", "neighbours_paired"},
    "dgd": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE | {"mse_paired", "neighbours_paired"},
    "glo": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE | {"mse_paired", "neighbours_paired"},
    "gon": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "gon_variational": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "imle": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "rae": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "wae": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "iwae": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "cvae": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "short_run": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE,
    "svi": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "assignment": WITH_LATENTS | WITH_CODES | TOLD_THE_IMAGE | {"mse_paired", "neighbours_paired"},
    "vad": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE | {"mse_paired", "neighbours_paired"},
    "savae": WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_THE_IMAGE,
    "gan": set(),  # its images are made of noise, and no image has a latent
    "flow_matching": set(),
    "mean_flow": set(),
}


def report_of(name: str, version: int = 0) -> dict[str, Any]:
    path = Path(f"lightning_logs/{name}/version_{version}/checkpoints/last.evaluation.json")
    report: dict[str, Any] = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} in {path}"))
    return report


def values_of(report: dict[str, Any]) -> dict[str, float]:
    return {name: metric["value"] for name, metric in report["metrics"].items()}


def test_every_paradigm_has_its_place_among_the_tested() -> None:
    """A new paradigm is tested by its config: this list is of configs, one at least for each core paradigm."""
    plugins.load(ROOT / "plugins")
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert configs == set(OWN)
    named = "\n".join((ROOT / "configs" / f"{name}.yaml").read_text() for name in configs)
    for paradigm in shipped(Paradigm):
        assert paradigm.__name__ in named


@pytest.mark.parametrize("config", OWN)
def test_every_paradigm_is_scored_in_the_same_way(
    config: str, cli: RunCLI, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = {
        "autodecoder": ["--model.code_steps=3"],
        "glo": ["--model.latent_steps=3"],
        "svi": ["--model.latent_steps=3"],
    }.get(config, [])
    cli("fit", "--config", f"configs/{config}.yaml", *SHORT, *few)
    capfd.readouterr()
    cli("test", "--ckpt_path", f"lightning_logs/{config}/version_0/checkpoints/last.ckpt", *SMALL)
    out, err = capfd.readouterr()
    assert err == ""
    report = report_of(config)
    metrics = report["metrics"]
    assert ALWAYS | OWN[config] <= metrics.keys()
    optional = WITH_LATENTS | WITH_CODES | WITH_POSTERIOR | TOLD_LESS | TOLD_THE_IMAGE
    assert not (optional - OWN[config]) & metrics.keys()
    without = {"reconstruction", "likelihood", "latent space", "decoder_calls", "latent_milliseconds"}
    lacking = {"mse", "mse_encoder", "target_near_encoder", "neighbours_encoder", "elbo_amortisation_gap"}
    lacking = (lacking | {"latent_milliseconds"}) - metrics.keys()
    assert report["undefined"].keys() == (lacking if OWN[config] else without), "what is not there is undefined"
    assert all(metric["unit"] for metric in metrics.values()), "every number has a unit"
    documented = (ROOT / "docs" / "evaluation.md").read_text() + (ROOT / "docs" / "dashboard.md").read_text()
    paradigm = encdec.load(f"lightning_logs/{config}/version_0/checkpoints/last.ckpt")
    documented += paradigm.losses.__doc__ or ""  # terms of its own
    run = events(f"lightning_logs/{config}/version_0")
    for name, metric in metrics.items():
        assert np.isfinite(metric["value"])
        is_shown = not name.endswith("_floor") and "e_gap" not in name
        if is_shown and (name != "elbo" or metric["value"] != -metrics["loss"]["value"]):
            assert f"{name} " in out
        assert run.Scalars(f"test/{name}")[-1].value == pytest.approx(metric["value"], rel=1e-5)
        stem = re.sub(r"_(zeros|classifier(_prior|_gaussian|_mixture)?)$", "", name)
        explained = rf"`{stem}(_zeros|_…)?`|`{re.sub('_[a-z]+$', '', stem)}_PAIRING`|`(…/|test/){stem}`|`…/{stem}`"
        assert re.search(explained, documented), f"{name} is explained nowhere"
    judged = "test/sample_variance" if config in SETS or not OWN[config] else "test/mse"
    assert f"{judged} – hardly trained yet (22 steps): " in out, "the verdict"
    pictures = {tag for tag in run.Tags()["images"] if tag.startswith("test/")}
    of_latents = {"test/reconstructions", "test/latent_map"} if OWN[config] >= SEARCHED else set()
    assert pictures == {"test/interpolations", *of_latents}
    folder = Path(f"lightning_logs/{config}/version_0/checkpoints")
    drawn = {path.name for path in folder.glob("*.png")}
    assert drawn == {"last.samples.png", *(["last.reconstructions.png"] if OWN[config] >= SEARCHED else [])}
    images = image_values.read(folder / "last.evaluation.npz")
    for name, values in images.items():
        assert values.mean == pytest.approx(metrics[name]["value"], rel=1e-4, abs=1e-5), name
        assert values.standard_error == pytest.approx(metrics[name]["standard_error"], rel=1e-3, abs=1e-5), name
    assert {"frechet_classifier", "recall_classifier"} <= images.keys()
    with open(f"lightning_logs/{config}/version_0/checkpoints/last.evaluation.csv") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in metrics} == values_of(report)
    assert row["paradigm"] == report["paradigm"]


def test_a_report_holds_all_that_repeats_it(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", "--seed_everything=3", "--model.beta=0.5", *SHORT)
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    cli("test", "--ckpt_path", checkpoint, *SMALL)
    report = report_of("vae")
    assert (report["seed"], report["step"], report["processes"]) == (3, 22, 1)
    assert report["config"]["model"]["init_args"]["beta"] == 0.5
    assert report["settings"]["posterior_samples"] == 4
    assert report["machine"]["device"] == "cpu"
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert {"encdec", "python", "torch", "lightning"} <= report["versions"].keys()
    assert report["data"]["images"] == {"train": 1294, "val": 144, "test": 359}
    assert report["data"]["fingerprints"]["test"] == fingerprint(Digits().splits["test"])
    (batch,) = Digits(batch_size=1000).test_dataloader()
    with torch.no_grad():
        terms = encdec.load(checkpoint).measured_losses(batch).terms
    assert values_of(report)["kl"] == pytest.approx(terms["kl"].mean().item(), rel=1e-5)
    # the saved config and settings give the same numbers again, whatever the batch size
    Path("again.json").write_text(json.dumps(report["config"]))
    cli("test", "--config", "again.json", "--ckpt_path", checkpoint, "--data.batch_size=33")
    again = values_of(report_of("vae"))
    again["latent_milliseconds"] = values_of(report)["latent_milliseconds"]  # which no run repeats
    for name, value in values_of(report).items():
        assert again[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("config", ["vae", "decoder"])
def test_two_processes_give_the_metrics_of_one(config: str, cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", f"configs/{config}.yaml", *SHORT)
    checkpoint = f"lightning_logs/{config}/version_0/checkpoints/last.ckpt"
    cli("test", "--ckpt_path", checkpoint, *SMALL, "--evaluation.num_images=61")
    one = values_of(report_of(config))
    code, output = killing.on_two(project, "test", "--ckpt_path", checkpoint, *SMALL, "--evaluation.num_images=61")
    assert code == 0, output
    report = report_of(config)
    assert report["processes"] == 2
    assert output.count("kernel_classifier ") == 1, "the table is printed once"
    two = values_of(report)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name == "latent_milliseconds":
            continue
        assert two[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name


def test_only_the_asked_for_parts_run(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli("fit", "--config", "configs/vae_noenc.yaml", *SHORT)
    checkpoint = "lightning_logs/vae_noenc/version_0/checkpoints/last.ckpt"
    cli("test", "--ckpt_path", checkpoint, "--evaluation.parts=[]")
    assert "test/mse" in capsys.readouterr().out
    assert not list(project.rglob("*.evaluation.*"))
    cli("test", "--ckpt_path", checkpoint, "--evaluation.parts=[reconstruction]", *SMALL)
    metrics = values_of(report_of("vae_noenc"))
    assert "mse_posterior" in metrics
    assert not {"nll_posterior", "memorised", "path_length"} & metrics.keys()


def test_what_is_not_at_hand_is_said_before_any_work(
    cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *SHORT)
    monkeypatch.setenv("TORCH_HOME", str(project / "nothing"))
    monkeypatch.setattr("encdec.evaluation.whole.infer", lambda *_: pytest.fail("too late"))
    with pytest.raises(SystemExit) as stop:
        cli("test", "--ckpt_path", "lightning_logs/vae/version_0/checkpoints/last.ckpt",
            "--evaluation.feature_space=inception")  # fmt: skip
    err = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Inception's features need the weights" in err
    assert len(err.splitlines()) == 1


def test_a_gaussian_observation_model_keeps_its_sigma(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config", "configs/vae.yaml", "--model.observation=Gaussian", "--model.observation.sigma=0.2", *SHORT)
    cli("test", "--ckpt_path", "lightning_logs/vae/version_0/checkpoints/last.ckpt", *SMALL,
        "--evaluation.parts=[likelihood]")  # fmt: skip
    metrics = report_of("vae")["metrics"]
    assert "σ = 0.2" in metrics["nll_encoder"]["unit"]
    assert metrics["nll_posterior"]["unit"].startswith("nats per image, Gaussian")
    # importance sampling can only tighten the bound, up to the noise of a few codes
    assert metrics["nll_encoder"]["value"] < -metrics["elbo_encoder"]["value"] + 0.5


@pytest.mark.parametrize("case", ["constant images", "a class with one image", "four images"])
def test_degenerate_data_gives_sentences_and_never_a_nan(
    case: str, cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(self: Digits) -> tuple[InMemoryImages, InMemoryImages]:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
        labels = torch.arange(40) % 2
        if case == "constant images":
            pixels[:] = 77
        elif case == "a class with one image":
            labels = torch.tensor([1] + [0] * 39)
        train = InMemoryImages(pixels, labels, ("a", "b"))
        return train, train.subset(torch.arange(4)) if case == "four images" else train

    monkeypatch.setattr(Digits, "load", load)
    for config in ("decoder", "vae"):
        cli("fit", "--config", f"configs/{config}.yaml", *SHORT)
        capsys.readouterr()
        cli("test", "--ckpt_path", f"lightning_logs/{config}/version_0/checkpoints/last.ckpt", *SMALL)
        out = capsys.readouterr().out
        report = report_of(config)
        assert "nan" not in out.lower()
        for name, reason in report["undefined"].items():
            assert f"{name} is not defined here: {reason}" in out
            assert name not in report["metrics"]
        if case == "constant images":
            assert "explained_variance" not in report["metrics"]
            assert "sample_variance" in report["undefined"]
            assert "nothing to explain" in out
        if case == "four images":
            assert "recall_classifier" in report["undefined"]


def test_an_empty_split_is_a_sentence(
    cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *SHORT)
    load = Digits.load

    def without_test(self: Digits) -> Any:
        train, test = load(self)
        return train, test.subset(torch.arange(0))

    monkeypatch.setattr(Digits, "load", without_test)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli("test", "--ckpt_path", "lightning_logs/vae/version_0/checkpoints/last.ckpt")
    assert stop.value.code in (1, 2)
    err = capsys.readouterr().err
    assert err == "encdec: error: Digits: the test split is empty; it needs at least one image.\n"


def test_an_unwritable_folder_loses_no_metrics(
    cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *SHORT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("encdec.files.os.replace", full)
    with pytest.raises(SystemExit) as stop:
        cli("test", "--ckpt_path", "lightning_logs/vae/version_0/checkpoints/last.ckpt", *SMALL,
            "--evaluation.parts=[reconstruction]")  # fmt: skip
    out, err = capsys.readouterr()
    assert stop.value.code == 1
    assert "mse_posterior" in out
    assert "last.evaluation.json can't be written (No space left on device)" in err
    assert len(err.splitlines()) == 1
    assert not list(project.rglob("*evaluation*"))


def test_ctrl_c_leaves_what_was_there(
    cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    cli("fit", "--config", "configs/vae.yaml", *SHORT)
    checkpoint = "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    cli("test", "--ckpt_path", checkpoint, *SMALL, "--evaluation.parts=[reconstruction]")
    before = report_of("vae")
    monkeypatch.setattr("encdec.evaluation.whole.infer", interrupt)
    with pytest.raises(SystemExit) as stop:
        cli("test", "--ckpt_path", checkpoint, *SMALL)
    assert stop.value.code == 130
    assert "Interrupted: nothing was written." in capsys.readouterr().out
    assert report_of("vae") == before


def test_checkpoints_that_cant_be_measured_are_refused(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/vae.yaml", *SHORT)
    path = project / "lightning_logs/vae/version_0/checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    next(iter(content["state_dict"].values())).fill_(float("nan"))
    torch.save(content, path.with_name("nan.ckpt"))
    cases = [
        (
            "last.ckpt",
            ["--data=FashionMNIST"],
            2,
            "was trained on images of 1×8×8, but those of FashionMNIST are 1×28×28",
        ),
        ("last.ckpt", ["--model.latent_dim=3"], 1, "does not fit the model"),
        ("nan.ckpt", [], 1, "holds weights that are not finite"),
    ]
    for name, args, code, words in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli("test", "--config", "configs/vae.yaml", *args, "--ckpt_path", str(path.with_name(name)))
        err = capsys.readouterr().err
        assert words in err
        assert stop.value.code == code
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--evaluation.num_samples=0", "Evaluate: num_samples is 0, but it must be greater than zero"),
        ("--evaluation.posterior_steps=-1", "Evaluate: posterior_steps is -1"),
        ("--evaluation.parts=[sample]", "'sample'"),
        ("--evaluation.feature_space=incepton", "incepton"),
        ("--evaluation.num_sample=3", "num_samples"),
    ],
)
def test_bad_settings_are_sentences(
    flag: str, words: str, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = project / "untrained.ckpt"
    held = {"hyper_parameters": {"_class_path": "encdec.paradigms.VAE"}, "state_dict": {}, "epoch": 0, "global_step": 0}
    torch.save({**held, "pytorch-lightning_version": lightning.__version__}, checkpoint)
    with pytest.raises(SystemExit) as stop:
        cli("test", "--config", "configs/vae.yaml", "--ckpt_path", str(checkpoint), flag)
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in err
    assert len(err.splitlines()) == 1
