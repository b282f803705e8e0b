"""What latents of samples are drawn from: fitted to the latents of training images, and measured side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encdec.data import Images, InMemoryImages
from encdec.evaluation import samplers
from encdec.evaluation.context import Context
from encdec.evaluation.distances import OF_SAMPLERS
from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.evaluation.samplers import check_sampler, own_sampler, sample_from, side_by_side, training_latents
from encdec.evaluation.samples import evaluate_samples
from encdec.evaluation.view import View
from encdec.objectives.neighbor_mapping import NeighborMapping
from encdec.objectives.priors import FittedGaussian, FittedPrior, GaussianMixture, StandardNormal
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE
from encdec.types import Batch, UserError
from tests.conftest import RunCLI, refused

from .helpers import PIXELS, SHAPE, Linear, context_of, in_turns, some
from .test_evaluate import SMALL, report_of, values_of

pytestmark = pytest.mark.usefixtures("no_grad")
CORNERS = torch.tensor([[3.0, 0.0], [-3.0, 1.0]])


class Corners(Linear):
    """Whose training images have latents in two far corners."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(own_codes=True, num_train=90, **kwargs)
        corners = CORNERS[torch.arange(90) % 2]
        self.table.data.copy_(corners + 0.1 * torch.randn(90, 2, generator=torch.Generator().manual_seed(0)))


def images(count: int, seed: int = 0) -> InMemoryImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)
    return InMemoryImages(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def decoded(model: Corners, seed: int) -> Images:
    """Images of latents like those of the training images."""
    z = CORNERS[torch.arange(80) % 2] + 0.1 * torch.randn(80, 2, generator=torch.Generator().manual_seed(seed))
    x = model.decode(z, torch.zeros(80, dtype=torch.int64)).sigmoid()
    return InMemoryImages((255 * x).round().to(torch.uint8), torch.arange(80) % 3, ("a", "b", "c"))


def metrics_of(context: Context, side: bool) -> Metrics:
    space = replace(PIXELS, dim=12)
    evaluate_samples(context, space, side_by_side(context) if side else {})
    return context.metrics


def model_and_context(**changes: Any) -> tuple[Corners, Context]:
    torch.manual_seed(3)
    model = Corners().eval()
    return model, context_of(View(model), images(90), decoded(model, 5), num_samples=300, **changes)


def test_each_sampler_side_by_side_scores_what_it_scores_alone() -> None:
    model, context = model_and_context()
    together = metrics_of(context, side=True).values
    assert {f"{name}_pixels_{one}" for name in OF_SAMPLERS for one in ("prior", "gaussian", "mixture")} < set(together)
    for sampler in ("prior", "gaussian", "mixture"):
        model, context = model_and_context()
        sample_from(context, sampler)
        alone = metrics_of(context, side=False).values
        assert not [name for name in alone if name.endswith(("_prior", "_gaussian", "_mixture"))]
        for name in OF_SAMPLERS:
            found, wanted = together[f"{name}_pixels_{sampler}"], alone[f"{name}_pixels"]
            assert found.value == pytest.approx(wanted.value, rel=1e-6)
            assert found.standard_error == pytest.approx(wanted.standard_error)
            assert found.reference == wanted.reference
            assert found.unit.startswith(wanted.unit)
    assert model.ex_post is not None


def test_two_corners_are_a_mixture_and_no_gaussian() -> None:
    values = metrics_of(model_and_context()[1], side=True).values
    frechet, coverage = (
        [values[f"{name}_pixels_{one}"].value for one in ("prior", "gaussian", "mixture")]
        for name in ("frechet", "coverage")
    )
    # a Gaussian has the same two moments, in latents and hardly otherwise in pixels; the prior has not
    assert frechet[0] > 5 * frechet[2]
    assert coverage[2] > 0.9
    assert coverage[1] < coverage[2] - 0.2


def test_units_say_what_is_drawn_from() -> None:
    values = metrics_of(model_and_context()[1], side=True).values
    assert values["frechet_pixels"].unit.endswith("300 samples vs 80 test images")
    for sampler, source in {
        "prior": "latents from the prior StandardNormal",
        "gaussian": "latents from a FittedGaussian of 90 training images",
        "mixture": "latents from a GaussianMixture of 90 training images",
    }.items():
        for name in OF_SAMPLERS:
            assert values[f"{name}_pixels_{sampler}"].unit.endswith(f"; {source}")


def fitted(prior: FittedPrior, seed: int = 7) -> FittedPrior:
    prior.fit(torch.randn(50, prior.dim, generator=torch.Generator().manual_seed(seed)))
    return prior


def test_a_sampler_that_is_the_model_s_own_is_taken_as_it_is() -> None:
    for prior, name in (
        (None, "prior"),
        (fitted(FittedGaussian(2)), "gaussian"),
        (fitted(GaussianMixture(2)), "mixture"),
        (fitted(GaussianMixture(2, components=3)), ""),
        (FittedGaussian(2), ""),  # which is not fitted
    ):
        model, context = model_and_context()
        model.ex_post = prior
        assert own_sampler(model) == name
        drawn = side_by_side(context)
        assert [one for one in drawn if drawn[one].ex_post is prior] == ([name] if name else [])
        if name:
            found = metrics_of(context, side=True).values
            assert model.ex_post is prior
            assert found[f"frechet_pixels_{name}"].value == found["frechet_pixels"].value


def test_latents_are_those_of_training_images_in_an_order_that_is_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, context = model_and_context()
    monkeypatch.setattr(samplers, "MOST", 40)
    found = training_latents(context)
    rows = torch.cdist(found, model.table).argmin(1)
    assert len(set(rows.tolist())) == len(found) == 40
    assert torch.equal(found, model.table[rows]), "a table's rows are the codes of training images"
    assert (rows.diff() < 0).any(), "a split that is sorted by class would not be represented by its first images"
    assert torch.equal(training_latents(context), found)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_what_one_gives(count: int) -> None:
    one = metrics_of(model_and_context()[1], side=True)

    @torch.no_grad()  # which is a thread's own
    def work(processes: Processes) -> Metrics:
        return metrics_of(model_and_context(processes=processes)[1], side=True)

    for result in in_turns(count, work):
        assert result.values.keys() == one.values.keys()
        for name, metric in result.values.items():
            assert metric.value == pytest.approx(one.values[name].value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(("sampler", "kind"), [("gaussian", FittedGaussian), ("mixture", GaussianMixture),
                                               ("neighbors", NeighborMapping)])  # fmt: skip
def test_a_model_samples_from_what_is_fitted(
    sampler: str, kind: type[FittedPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(samplers.FITTED, "neighbors", lambda dim: NeighborMapping(dim, rounds=2))
    model, context = model_and_context()
    sample_from(context, "model")
    assert isinstance(model.sampled, StandardNormal)
    sample_from(context, sampler)
    assert isinstance(model.sampled, kind)
    assert model.sampled.fitted == 90
    assert context.view.dim == model.noise_dim == model.sampled.noise_dim
    y = torch.zeros(5, dtype=torch.int64)
    assert model.sample(y).shape == (5, *SHAPE)
    sample_from(context, "prior")
    assert isinstance(model.sampled, StandardNormal)


def test_models_that_have_no_latents_of_images() -> None:
    settings: dict[str, Any] = {"image_shape": SHAPE, "num_classes": 3, "latent_dim": 2}
    for model in (ConditionalDecoder(**settings), EncoderlessVAE(**settings)):
        assert side_by_side(context_of(View(model.eval()), images(30))) == {}
        check_sampler(model, "prior")
        with pytest.raises(UserError, match=f"{type(model).__name__} has none") as error:
            check_sampler(model, "mixture")
        assert error.value.exit_code == 2
    for other in (VAE(**settings), AE(**settings), EncoderlessVAE(**settings, latents="fixed"),
                  EncoderlessVAE(**settings, num_prior_samples=4)):  # fmt: skip
        for sampler in ("model", "prior", "gaussian", "mixture", "neighbors"):
            check_sampler(other, sampler)


def test_latents_that_are_not_finite_are_compared_with_nothing() -> None:
    class Broken(Corners):
        def codes(self, batch: Batch) -> Tensor:
            return torch.full((len(batch.x), 2), torch.nan)

    assert side_by_side(context_of(View(Broken().eval()), some(30))) == {}


@pytest.fixture
def trained(cli: RunCLI, project: Path) -> str:
    """A checkpoint of an auto-decoder, whose training images have a table."""
    cli("fit", "--config=configs/autodecoder.yaml", "--trainer.max_epochs=2", "--model.code_steps=2",
        "--images.every_n_epochs=100")  # fmt: skip
    return "lightning_logs/autodecoder/version_0/checkpoints/last.ckpt"


def test_the_command_line_takes_a_sampler(trained: str, cli: RunCLI) -> None:
    cli("test", "--ckpt_path", trained, "--sampler=mixture", *SMALL)
    report = report_of("autodecoder")
    assert report["settings"]["sampler"] == "mixture"
    of_mixture = values_of(report)
    assert report["undefined"].keys() == {"elbo_amortisation_gap"}, "a table has no posterior"
    assert "nll_posterior" in of_mixture
    assert not {
        name for name in of_mixture if name.endswith(("classifier_prior", "classifier_gaussian", "classifier_mixture"))
    }
    cli("test", "--ckpt_path", trained, *SMALL)
    report = report_of("autodecoder")
    assert "sampler" not in report["settings"]
    both = values_of(report)
    for name in OF_SAMPLERS:
        assert both[f"{name}_classifier_mixture"] == pytest.approx(of_mixture[f"{name}_classifier"], rel=1e-6)
        assert both[f"{name}_classifier_prior"] == both[f"{name}_classifier"]

    cli("predict", "--ckpt_path", trained, "--sampler=mixture")
    folder = Path("lightning_logs/autodecoder/version_0/predictions")
    of_mixture_samples = torch.load(folder / "samples.pt", weights_only=True)
    assert of_mixture_samples["noise"].shape[1] == 33, "a number that chooses the component"
    cli("predict", "--ckpt_path", trained)
    samples = torch.load(folder / "samples.pt", weights_only=True)
    assert torch.equal(samples["noise"], samples["z"])
    assert of_mixture_samples["z"].norm(dim=1).mean() < 0.5 * samples["z"].norm(dim=1).mean(), "the table's are small"


def test_what_can_not_be_sampled_from_is_refused(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in ("gan", "vae_noenc"):
        cli("fit", f"--config=configs/{config}.yaml", "--trainer.max_epochs=1", "--images.every_n_epochs=100")
    gan, encoderless = (f"lightning_logs/{name}/version_0/checkpoints/last.ckpt" for name in ("gan", "vae_noenc"))
    capsys.readouterr()
    for command in ("test", "predict"):
        said = refused(capsys, command, "--ckpt_path", gan, "--sampler=prior")
        assert "GAN makes images of noise, without latents" in said
        said = refused(capsys, command, "--ckpt_path", encoderless, "--sampler=neighbors")
        assert "EncoderlessVAE has none" in said
    assert "expected one of 'model'" in refused(capsys, "test", "--ckpt_path", gan, "--sampler=normal")
