"""The one evaluation of all paradigms, after `test`."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.plain_progress import PlainProgress, plain_stages
from encdec.callbacks.terminal import UNITS, print_verdicts
from encdec.callbacks.verdicts import reference, stands_beside
from encdec.data import DataModule, Images
from encdec.data.base import fingerprint
from encdec.evaluation import latent_pictures, report
from encdec.evaluation.base import Advance, Figures, Processes, View, batches, block_size
from encdec.evaluation.features import FeatureSpace, find_space
from encdec.evaluation.grids import comparison, drawing, enlarge, thumbnails
from encdec.evaluation.latent_space import evaluate_latent
from encdec.evaluation.likelihood import evaluate_likelihood
from encdec.evaluation.reconstruction import evaluate_reconstruction
from encdec.evaluation.samples import evaluate_samples
from encdec.files import expanded
from encdec.formats import REPORT_FORMAT
from encdec.objectives.losses import pixel_means
from encdec.paradigms import Paradigm
from encdec.paradigms.base import require_positive
from encdec.runs import history
from encdec.tables import print_table
from encdec.text import printable
from encdec.types import Batch

Part = Literal["reconstruction", "likelihood", "samples", "latent"]
Stage = Callable[[str], Advance]
"""Starts the progress bar of a stage of that name, and gives what advances it."""
_SHOWN = 16  # reconstructed images in TensorBoard
_PROJECTED = 2000  # codes in TensorBoard's projector
_LONGEST_NAME = 80  # of a class, there


class Evaluate(pl.Callback):
    """After `test`, scores the checkpoint on the test split in the same way for every paradigm.

    Prints a table, writes `CHECKPOINT.evaluation.json` and `.csv` beside the checkpoint, logs every figure as
    `test/NAME`, and then draws pictures; one that can't be drawn costs a sentence. What each figure means is described
    in docs/evaluation.md.

    Args:
        parts: which parts to run; an empty list leaves only the means of the objective's terms.
        num_images: test images that are reconstructed and whose likelihood is estimated, at most.
        num_samples: samples that are drawn.
        posterior_samples: K of likelihoods by a posterior.
        prior_samples: K of likelihoods by the prior.
        code_steps: steps of Adam in the search for an image's code, or its posterior.
        sigma: of the Gaussian observation model, where the paradigm has none of its own.
        feature_space: where samples are compared: `auto` is Inception where its weights are at hand, else a small
            classifier of the training split, else (data without labels) principal components.
        cache_dir: folder for trained classifiers; `lightning_logs/features` if not given.

    Attributes:
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
        self._history: list[str] = []
        self.figures: Figures | None = None
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
        # optimised codes need gradients, which tensors of inference mode can't have
        with torch.inference_mode(False), torch.no_grad():
            if pl_module.device.type == "mps":
                pl_module.cpu()  # sums are float64, which Apple's GPUs do not have
            view, processes = View(pl_module), _processes(trainer)
            self.figures = Figures()
            _add_means(trainer, pl_module, self.figures)
            prints = {name: fingerprint(images) for name, images in data.splits.items()}
            codes, space = self._run(trainer, view, data, processes, self.figures, prints["train"])
        if trainer.is_global_zero:
            _print_table(self.figures)
            measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
            if "sample_variance" in self.figures.values:
                measured["test/sample_variance"] = self.figures.values["sample_variance"].value
            print_verdicts(trainer, "test", measured, pl_module.loaded_step, samples=self.num_samples)
            found = _provenance(trainer, pl_module, data, prints, run)
            settings = {name: getattr(self, name) for name in inspect.signature(Evaluate).parameters}
            figures = report.figures_as_dict(self.figures)
            found |= {"feature_space": space, "settings": settings, "config": self.config, "figures": figures}
            found["history"] = self._history
            found |= {"undefined": self.figures.undefined, "seconds": round(perf_counter() - began, 1)}
            folder, stem = _beside(trainer, run)
            self.written.extend(report.write(found, folder, stem))
            as_json, as_csv = self.written
            print(f"{as_json} and {as_csv.name}: these figures, with all that repeats them", flush=True)
            self._log(trainer, view, self.figures)
            with torch.inference_mode(False), torch.no_grad():
                self._draw(trainer, view, data.splits["test"], codes)

    def _run(
        self, trainer: pl.Trainer, view: View, data: DataModule, processes: Processes, figures: Figures, train: str
    ) -> tuple[Tensor | None, str]:
        test, codes, means = data.splits["test"], None, None
        num_images = max(self.num_images, trainer.world_size)  # so that no process is without an image
        with _progress(trainer) as stage:
            # first, because it may have to say that what was asked for is not at hand
            found = self._space(trainer, view, data, processes, train, stage) if "samples" in self.parts else None
            if "reconstruction" in self.parts:
                advance = stage("reconstruction: searching codes")
                codes = evaluate_reconstruction(view, test, num_images, self.code_steps, figures, processes, advance)
            if "likelihood" in self.parts:
                means = evaluate_likelihood(
                    view,
                    test,
                    num_images,
                    self.posterior_samples,
                    self.prior_samples,
                    self.code_steps,
                    self.sigma,
                    figures,
                    processes,
                    stage("likelihood"),
                )
            if "latent" in self.parts:
                advance = stage("latent space")
                evaluate_latent(view, data.splits["train"], test, codes, means, figures, processes, advance)
            if found is not None:
                advance = stage("samples")
                evaluate_samples(view, data.splits["train"], test, found, self.num_samples, processes, figures, advance)
        return codes, "" if found is None else found.description

    def _space(
        self, trainer: pl.Trainer, view: View, data: DataModule, processes: Processes, train: str, stage: Stage
    ) -> FeatureSpace:
        folder = Path(expanded(self.cache_dir or Path(trainer.default_root_dir, "lightning_logs", "features")))
        advance = stage("feature space")
        splits = data.splits["train"], data.splits["test"]
        return find_space(self.feature_space, *splits, folder, train, view.device, processes, advance)

    def _log(self, trainer: pl.Trainer, view: View, figures: Figures) -> None:
        for logger in trainer.loggers:
            # the means are there already
            new = {f"test/{name}": figure.value for name, figure in figures.values.items()}
            new = {name: value for name, value in new.items() if name not in trainer.callback_metrics}
            logger.log_metrics(new, step=view.paradigm.loaded_step)

    def _draw(self, trainer: pl.Trainer, view: View, test: Images, codes: Tensor | None) -> None:
        for writer in tensorboard_writers(trainer):
            for name, draw in _PICTURES.items():
                with drawing(f"test/{name}"):
                    draw(name, writer, view, test, codes)


def _codes_of(view: View, test: Images, codes: Tensor | None) -> tuple[Tensor, Batch] | None:
    """Codes to look at, with their images: the encoder's where there is one, else optimised ones."""
    most = block_size(math.prod(test.image_shape), _PROJECTED)
    (batch,) = batches(test, torch.arange(min(most, len(test.labels))), view.device, most)
    z = view.encode(batch)
    if z is None and codes is not None:
        z = codes[: len(batch.x)]
        batch = batch.rows(slice(len(z)))
    return None if z is None else (z.float(), batch)


def _draw_reconstructions(name: str, writer: SummaryWriter, view: View, test: Images, codes: Tensor | None) -> None:
    (batch,) = batches(test, torch.arange(min(_SHOWN, len(test.labels))), view.device, _SHOWN)
    rows = [batch.x]
    for z in (view.encode(batch), None if codes is None else codes[: len(batch.x)]):
        if z is not None:
            rows.append(pixel_means(view.decode(z, batch.y)))
    if len(rows) > 1:
        writer.add_image(f"test/{name}", enlarge(comparison(rows, columns=8)), view.paradigm.loaded_step)


def _draw_interpolations(name: str, writer: SummaryWriter, view: View, test: Images, codes: Tensor | None) -> None:
    writer.add_image(f"test/{name}", latent_pictures.interpolations(view, test), view.paradigm.loaded_step)


def _draw_map(name: str, writer: SummaryWriter, view: View, test: Images, codes: Tensor | None) -> None:
    shown = _codes_of(view, test, codes)
    if shown is not None:
        z, batch = shown
        picture = latent_pictures.latent_map(z.cpu(), batch.y.cpu(), test.classes)
        writer.add_image(f"test/{name}", picture, view.paradigm.loaded_step)


def _fill_projector(name: str, writer: SummaryWriter, view: View, test: Images, codes: Tensor | None) -> None:
    shown, step = _codes_of(view, test, codes), view.paradigm.loaded_step
    # a second evaluation of a checkpoint would list the same codes twice
    if shown is not None and not Path(writer.log_dir, f"{step:05}", name).exists():
        z, batch = shown
        names = [printable(test.classes[label], _LONGEST_NAME) for label in batch.y.tolist()]
        writer.add_embedding(z.cpu(), metadata=names, label_img=thumbnails(batch.x), global_step=step, tag=name)


_PICTURES = {
    "reconstructions": _draw_reconstructions,
    "interpolations": _draw_interpolations,
    "latent_map": _draw_map,
    "codes": _fill_projector,
}
"""What TensorBoard shows of a test split, the projector last."""


def _add_means(trainer: pl.Trainer, paradigm: Paradigm, figures: Figures) -> None:
    """The means over the split that Lightning's test loop has logged, with their floors."""
    means = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    for name, value in means.items():
        beside = reference(name, means, paradigm.conditioning)
        short = name.removeprefix("test/")
        unit = UNITS.get(short.partition("_")[0], "per image")
        figures.add(short, value, unit, reference=beside and beside[0], reference_name=beside[1] if beside else "")


def _processes(trainer: pl.Trainer) -> Processes:
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


def _print_table(figures: Figures) -> None:
    rows = [["test split", "", "± s.e.", "to compare with", "unit"]]
    for name, figure in figures.values.items():
        if not stands_beside(name):
            error = "" if figure.standard_error is None else f"{figure.standard_error:.2g}"
            beside = "" if figure.reference is None else f"{figure.reference:.5g} {figure.reference_name}"
            rows.append([printable(name), f"{figure.value:.5g}", error, printable(beside), printable(figure.unit)])
    print_table(rows, text=(4, 3, 0), box=SIMPLE_HEAD)
    for name, reason in figures.undefined.items():
        print(f"{name} is not defined here: {reason}", flush=True)


def _beside(trainer: pl.Trainer, run: str | None) -> tuple[Path, str]:
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
