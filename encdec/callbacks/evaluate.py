"""The one evaluation of all paradigms, after `test`."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

from encdec.callbacks.evaluation_images import draw
from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.plain_progress import PlainProgress, plain_stages
from encdec.callbacks.terminal import UNITS, print_verdicts
from encdec.callbacks.verdicts import reference, stands_beside
from encdec.data import DataModule
from encdec.data.fingerprints import fingerprint
from encdec.evaluation import report
from encdec.evaluation.context import Advance, Context
from encdec.evaluation.features import find_space
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.processes import Processes
from encdec.evaluation.reconstruction import evaluate_reconstruction
from encdec.evaluation.results import Metrics
from encdec.evaluation.samplers import Sampler, sample_from, side_by_side
from encdec.evaluation.samples import evaluate_samples
from encdec.evaluation.smoothness import add_smoothness
from encdec.evaluation.view import View
from encdec.files import expanded
from encdec.formats import REPORT_FORMAT
from encdec.paradigms import Paradigm
from encdec.runs import history
from encdec.tables import print_table
from encdec.text import printable
from encdec.types import require_positive

Part = Literal["reconstruction", "likelihood", "samples", "latent"]
Stage = Callable[[str], Advance]
"""Starts the progress bar of a stage of that name, and gives what advances it."""


class Evaluate(pl.Callback):
    """After `test`, scores the checkpoint on the test split in the same way for every paradigm.

    Prints a table, writes `CHECKPOINT.evaluation.json` and `.csv` next to the checkpoint, logs every metric as
    `test/NAME`, and then draws images; one that can't be drawn costs a sentence. What each metric means is described
    in docs/evaluation.md.

    Args:
        parts: which parts to run; an empty list leaves only the means of the objective's terms.
        num_images: test images that are reconstructed and whose likelihood is estimated, at most.
        num_samples: samples that are drawn.
        posterior_samples: K of likelihoods by a posterior.
        prior_samples: K of likelihoods by the prior.
        code_steps: steps of Adam in the search for an image's latent code, or its posterior.
        sigma: of the Gaussian observation model, where the paradigm has none of its own.
        feature_space: where samples are compared: `auto` is Inception where its weights are at hand, else a small
            classifier of the training split, else (data without labels) principal components.
        cache_dir: folder for trained classifiers; `lightning_logs/features` if not given.

    Attributes:
        sampler: what latents of samples are drawn from, set by `test --sampler`; with `model` the prior and ex-post
            densities are compared side by side.
        written: the files that are there.

    Raises:
        UserError: a number is not positive.
    """

    def __init__(
        self,
        parts: list[Part] | None = None,
        num_images: int = 10_000,
        num_samples: int = 10_000,
        posterior_samples: int = 64,
        prior_samples: int = 10_000,
        code_steps: int = 100,
        sigma: float = 0.1,
        feature_space: Literal["auto", "inception", "classifier", "pca"] = "auto",
        cache_dir: str | None = None,
    ) -> None:
        self.parts = ["reconstruction", "likelihood", "samples", "latent"] if parts is None else list(parts)
        self.num_images, self.num_samples = num_images, num_samples
        self.posterior_samples, self.prior_samples = posterior_samples, prior_samples
        self.code_steps, self.sigma, self.feature_space, self.cache_dir = code_steps, sigma, feature_space, cache_dir
        require_positive(self, "num_images", "num_samples", "posterior_samples", "prior_samples", "code_steps", "sigma")
        self.config: dict[str, Any] = {}
        self.sampler: Sampler = "model"
        self._history: list[str] = []
        self.metrics: Metrics | None = None
        self.written: list[Path] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember what the checkpoint's training began from, and what changed on its way."""
        self._history = history.in_checkpoint(checkpoint)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, show and write."""
        data = getattr(trainer, "datamodule", None)
        if not (self.parts and isinstance(pl_module, Paradigm) and isinstance(data, DataModule)):
            return
        began, self.written = perf_counter(), []
        run = trainer.log_dir  # which waits for the other processes
        # optimised latents need gradients, which tensors of inference mode can't have
        with torch.inference_mode(False), torch.no_grad():
            if pl_module.device.type == "mps":
                pl_module.cpu()  # sums are float64, which Apple's GPUs do not have
            context = self._context(trainer, pl_module, data)
            self.metrics = context.metrics
            _add_means(trainer, pl_module, self.metrics)
            prints = {name: fingerprint(images) for name, images in data.splits.items()}
            latents, space = self._run(trainer, context, prints["train"])
        if trainer.is_global_zero:
            _print_table(self.metrics)
            measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
            if "sample_variance" in self.metrics.values:
                measured["test/sample_variance"] = self.metrics.values["sample_variance"].value
            print_verdicts(trainer, "test", measured, pl_module.loaded_step, samples=self.num_samples)
            found = _provenance(trainer, pl_module, data, prints, run)
            settings = {name: getattr(self, name) for name in inspect.signature(Evaluate).parameters}
            metrics = report.metrics_as_dict(self.metrics)
            found |= {"feature_space": space, "settings": settings, "config": self.config, "metrics": metrics}
            if self.sampler != "model":
                settings["sampler"] = self.sampler
            found["history"] = self._history
            found |= {"undefined": self.metrics.undefined, "seconds": round(perf_counter() - began, 1)}
            folder, stem = _folder_and_stem(trainer, run)
            self.written.extend(report.write(found, folder, stem))
            as_json, as_csv = self.written
            print(f"{as_json} and {as_csv.name}: these metrics, with all that repeats them", flush=True)
            self._log(trainer, pl_module)
            with torch.inference_mode(False), torch.no_grad():
                for writer in tensorboard_writers(trainer):
                    draw(writer, context, latents)

    def _context(self, trainer: pl.Trainer, paradigm: Paradigm, data: DataModule) -> Context:
        return Context(
            View(paradigm),
            data.splits["train"],
            data.splits["test"],
            num_images=max(self.num_images, trainer.world_size),  # so that no process is without an image
            num_samples=self.num_samples,
            posterior_samples=self.posterior_samples,
            prior_samples=self.prior_samples,
            search_steps=self.code_steps,
            sigma=self.sigma,
            processes=processes_of(trainer),
        )

    def _run(self, trainer: pl.Trainer, context: Context, fingerprint: str) -> tuple[Tensor | None, str]:
        """Run the parts; the optimised latents, if they were searched for, and where samples were compared."""
        latents, means, space = None, None, None
        with _progress(trainer) as stage:

            def starting(name: str) -> Context:
                return replace(context, advance=stage(name))

            if self.sampler != "model":
                sample_from(starting("sampler: latents of training images"), self.sampler)
            if "samples" in self.parts:  # first, because it may have to say that what was asked for is not at hand
                folder = expanded(self.cache_dir or Path(trainer.default_root_dir, "lightning_logs", "features"))
                space = find_space(starting("feature space"), self.feature_space, Path(folder), fingerprint)
            parts = set(self.parts)
            if not context.view.is_latent:
                name = type(context.view.paradigm).__name__
                for part in sorted(parts & {"reconstruction", "likelihood"}):
                    context.metrics.undefined[part] = f"{name} makes images of noise, without latents or p(x|z)"
                parts -= {"reconstruction", "likelihood"}
            if "reconstruction" in parts:
                latents = evaluate_reconstruction(starting("reconstruction: searching latents"))
            if "likelihood" in parts:
                means = evaluate_likelihood(starting("likelihood"))
            if "latent" in parts and context.view.is_latent:
                evaluate_latent(starting("latent space"), latents, means)
            elif "latent" in parts:
                add_smoothness(starting("smoothness"))
            if space is not None:
                is_own = self.sampler == "model"
                samplers = side_by_side(starting("samplers: latents of training images")) if is_own else {}
                evaluate_samples(starting("samples"), space, samplers)
        return latents, "" if space is None else space.description

    def _log(self, trainer: pl.Trainer, paradigm: Paradigm) -> None:
        assert self.metrics is not None, "they are there after a test"
        for logger in trainer.loggers:
            # the means are there already
            new = {f"test/{name}": metric.value for name, metric in self.metrics.values.items()}
            new = {name: value for name, value in new.items() if name not in trainer.callback_metrics}
            logger.log_metrics(new, step=paradigm.loaded_step)


def _add_means(trainer: pl.Trainer, paradigm: Paradigm, metrics: Metrics) -> None:
    """The means over the split that Lightning's test loop has logged, with their floors."""
    means = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    for name, value in means.items():
        baseline = reference(name, means, paradigm.conditioning)
        short = name.removeprefix("test/")
        unit = UNITS.get(short.partition("_")[0], "per image")
        metrics.add(
            short, value, unit, reference=baseline and baseline[0], reference_name=baseline[1] if baseline else ""
        )


def processes_of(trainer: pl.Trainer) -> Processes:
    """How the processes of a run share the work of an evaluation."""

    def all_gather(tensor: Tensor) -> list[Tensor]:
        if trainer.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(parts, tensor)
        return parts

    return Processes(trainer.global_rank, trainer.world_size, all_gather)


@contextmanager
def _progress(trainer: pl.Trainer) -> Iterator[Stage]:
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    if isinstance(trainer.progress_bar_callback, PlainProgress):
        with plain_stages(shown) as stage:
            yield stage
        return
    columns = TextColumn("{task.description:34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=not shown) as bar:

        def stage(name: str) -> Advance:
            task = bar.add_task(name, total=1.0)
            return lambda done: bar.update(task, completed=done)

        yield stage


def _print_table(metrics: Metrics) -> None:
    rows = [["test split", "", "± s.e.", "to compare with", "unit"]]
    for name, metric in metrics.values.items():
        if not stands_beside(name):
            error = "" if metric.standard_error is None else f"{metric.standard_error:.2g}"
            baseline = "" if metric.reference is None else f"{metric.reference:.5g} {metric.reference_name}"
            rows.append([printable(name), f"{metric.value:.5g}", error, printable(baseline), printable(metric.unit)])
    print_table(rows, text=(4, 3, 0), box=SIMPLE_HEAD)
    for name, reason in metrics.undefined.items():
        print(f"{name} is not defined here: {reason}", flush=True)


def _folder_and_stem(trainer: pl.Trainer, run: str | None) -> tuple[Path, str]:
    """The folder and the stem of the files that report on a checkpoint."""
    if trainer.ckpt_path is None:
        return Path(run or trainer.default_root_dir), "model"
    path = Path(trainer.ckpt_path)
    return path.parent, path.stem


def _provenance(
    trainer: pl.Trainer, paradigm: Paradigm, data: DataModule, prints: dict[str, str], run: str | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "name": Path(run).parent.name if run else "",
        "version": Path(run).name if run else "",
        "paradigm": type(paradigm).__name__,
        "conditioning": str(paradigm.conditioning),
        "seed": paradigm.seed,
        "checkpoint": "",
        "step": paradigm.loaded_step,
    }
    if trainer.ckpt_path is not None:
        path = Path(trainer.ckpt_path)
        found |= {"checkpoint": path.name, "sha256": report.sha256(path)}
    found["data"] = {
        "class": type(data).__name__,
        "without_effect": sorted({*data.places, *data.resources}),
        "image_shape": list(data.image_shape),
        "images": {name: len(images.labels) for name, images in data.splits.items()},
        "fingerprint": prints["train"][:16] + prints["test"][:16],
        "fingerprints": prints,
    }
    found |= {"versions": report.versions(), "machine": report.machine(paradigm.device)}
    found |= {"processes": trainer.world_size, "precision": str(trainer.precision)}
    return found
