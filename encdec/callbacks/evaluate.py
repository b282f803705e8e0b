"""The one evaluation of all paradigms, after `test`."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

from encdec.callbacks.evaluation_files import write_pictures
from encdec.callbacks.evaluation_images import draw
from encdec.callbacks.evaluation_output import print_answers, print_details, print_sentences
from encdec.callbacks.image_grids import tensorboard_writers
from encdec.callbacks.plain_progress import PlainProgress, plain_stages
from encdec.callbacks.terminal import UNITS
from encdec.callbacks.verdicts import reference, verdicts
from encdec.data import DataModule
from encdec.data.fingerprints import fingerprint
from encdec.evaluation import report
from encdec.evaluation.context import Advance, Context
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.evaluation.samplers import Sampler
from encdec.evaluation.view import View
from encdec.evaluation.whole import PARTS, Part, Plan, Stage, evaluate_all
from encdec.files import expanded, sha256
from encdec.formats import REPORT_FORMAT
from encdec.paradigms import Paradigm
from encdec.runs import history
from encdec.training.split_means import SplitMeans
from encdec.training.step import callbacks
from encdec.types import require_positive

FEATURES = Path("lightning_logs", "features")
"""Folder for trained classifiers and what real images score, below that of all runs."""


class Evaluate(pl.Callback):
    """After `test`, scores the checkpoint on the test split in the same way for every paradigm.

    Prints the answers to five questions, writes `CHECKPOINT.evaluation.json` and `.csv` next to the checkpoint, `.npz`
    with values of images for `compare`, `CHECKPOINT.samples.png` and `.reconstructions.png`, logs every metric as
    `test/NAME`, and then draws images; one that can't be drawn costs a sentence. What each metric means is described
    in docs/evaluation.md.

    Args:
        parts: which parts to run; an empty list leaves only the means of the objective's terms.
        num_images: test images that a posterior is fitted to and whose likelihood is estimated, at most, chosen at
            random; what is cheap is measured on all.
        num_samples: samples that are drawn.
        posterior_samples: K of likelihoods by a posterior.
        prior_samples: K of likelihoods by the prior.
        posterior_steps: steps of Adam in the search for an image's posterior.
        feature_space: where samples are compared: `auto` is Inception where its weights are at hand, else a small
            classifier of the training split, else (data without labels) principal components.
        cache_dir: folder for trained classifiers and what real images score; `lightning_logs/features` if not given.
        details: whether every metric is printed.

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
        num_images: int = 1_000,
        num_samples: int = 10_000,
        posterior_samples: int = 64,
        prior_samples: int = 10_000,
        posterior_steps: int = 200,
        feature_space: Literal["auto", "inception", "classifier", "pca"] = "auto",
        cache_dir: str | None = None,
        details: bool = False,
    ) -> None:
        self.parts = [*PARTS] if parts is None else list(parts)
        self.num_images, self.num_samples = num_images, num_samples
        self.posterior_samples, self.prior_samples = posterior_samples, prior_samples
        self.posterior_steps, self.feature_space, self.cache_dir = posterior_steps, feature_space, cache_dir
        self.details = details
        require_positive(self, "num_images", "num_samples", "posterior_samples", "prior_samples", "posterior_steps")
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
            means = {name: value.item() for name, value in trainer.callback_metrics.items()}
            add_means(context, means, _of_images(trainer, context))
            prints = {name: fingerprint(images) for name, images in data.splits.items()}
            with _progress(trainer) as stage:
                inferred, space = evaluate_all(context, self._plan(trainer, pl_module), prints, stage)
        if trainer.is_global_zero:
            print_answers(self.metrics)
            if self.details:
                print_details(self.metrics)
            measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
            if "sample_variance" in self.metrics.values:
                measured["test/sample_variance"] = self.metrics.values["sample_variance"].value
            print_sentences(verdicts(trainer, "test", measured, pl_module.loaded_step, self.num_samples))
            found = _provenance(trainer, pl_module, data, prints, run)
            settings = {name: getattr(self, name) for name in inspect.signature(Evaluate).parameters}
            metrics = report.metrics_as_dict(self.metrics)
            found |= {"has_encoder": context.view.has_encoder, "reads_labels": context.view.reads_labels}
            found |= {"feature_space": space or "", "settings": settings, "config": self.config, "metrics": metrics}
            if self.sampler != "model":
                settings["sampler"] = self.sampler
            found["history"] = self._history
            found |= {"undefined": self.metrics.undefined, "doubtful": self.metrics.doubtful}
            found["seconds"] = round(perf_counter() - began, 1)
            folder, stem = _folder_and_stem(trainer, run)
            self.written.extend(report.write(found, self.metrics.images, folder, stem))
            as_json, *others = self.written
            names = " and ".join(path.suffix for path in others)
            print(f"{as_json}, {names}: all metrics", flush=True)
            self._log(trainer, pl_module)
            with torch.inference_mode(False), torch.no_grad():
                for path in write_pictures(context, inferred, folder, stem):
                    self.written.append(path)
                for writer in tensorboard_writers(trainer):
                    draw(writer, context, inferred)

    def _context(self, trainer: pl.Trainer, paradigm: Paradigm, data: DataModule) -> Context:
        return Context(
            View(paradigm),
            data.splits["train"],
            data.splits["test"],
            num_images=max(self.num_images, trainer.world_size),  # so that no process is without an image
            num_samples=self.num_samples,
            posterior_samples=self.posterior_samples,
            prior_samples=self.prior_samples,
            posterior_steps=self.posterior_steps,
            processes=processes_of(trainer),
        )

    def _plan(self, trainer: pl.Trainer, paradigm: Paradigm) -> Plan:
        folder = expanded(self.cache_dir or Path(trainer.default_root_dir, FEATURES))
        return Plan(self.parts, self.feature_space, Path(folder), self.sampler, paradigm.decoder_calls)

    def _log(self, trainer: pl.Trainer, paradigm: Paradigm) -> None:
        assert self.metrics is not None, "they are there after a test"
        for logger in trainer.loggers:
            # the means are there already
            new = {f"test/{name}": metric.value for name, metric in self.metrics.values.items()}
            new = {name: value for name, value in new.items() if name not in trainer.callback_metrics}
            logger.log_metrics(new, step=paradigm.loaded_step)


def add_means(context: Context, means: Mapping[str, float], of_images: Mapping[str, ImageValues]) -> None:
    """Add the means of the objective's terms over the split, with their floors.

    Args:
        context: the evaluation.
        means: by name: `test/mse`; others than of the test split are left out.
        of_images: the values of images that such means are of: `mse`.
    """
    means = {name: value for name, value in means.items() if name.startswith("test/")}
    for name, value in means.items():
        baseline = reference(name, dict(means), context.view.paradigm.conditioning)
        short = name.removeprefix("test/")
        context.metrics.add(
            short,
            of_images.get(short, value),
            UNITS.get(short.partition("_")[0], "per image"),
            reference=baseline and baseline[0],
            reference_name=baseline[1] if baseline else "",
        )


def _of_images(trainer: pl.Trainer, context: Context) -> dict[str, ImageValues]:
    """What the test loop has measured of each image, in the order of the split, by the name of the term."""
    means = next((one for one in callbacks(trainer) if isinstance(one, SplitMeans)), None)
    index, terms = means.of_images() if means is not None else (torch.zeros(0), {})
    processes, device = context.processes, context.view.device
    counts = torch.cat(processes.all_gather(torch.tensor([len(index)], device=device))).tolist()
    if not all(counts):
        return {}

    def gathered(rows: Tensor) -> Tensor:
        padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows))])
        parts = processes.all_gather(padded.to(device).double())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).cpu()

    order = gathered(index).argsort()
    return {name: ImageValues(gathered(values)[order].numpy()) for name, values in terms.items()}


def processes_of(trainer: pl.Trainer) -> Processes:
    """How the processes of a run share the work of an evaluation."""

    def all_gather(tensor: Tensor) -> list[Tensor]:
        if trainer.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(parts, tensor)
        return parts

    return Processes(trainer.global_rank, trainer.world_size, all_gather)


def _progress(trainer: pl.Trainer) -> AbstractContextManager[Stage]:
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    return plain_stages(shown) if isinstance(trainer.progress_bar_callback, PlainProgress) else shown_stages(shown)


@contextmanager
def shown_stages(shown: bool) -> Iterator[Stage]:
    """Within, each stage of an evaluation has a progress bar."""
    columns = TextColumn("{task.description:34}"), BarColumn(None), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=not shown) as bar:

        def end() -> None:
            """Of the stage before: it may have had nothing to do, and so have said nothing of how far it is."""
            for task in bar.tasks:
                if not task.finished:
                    bar.update(task.id, completed=1.0)

        def stage(name: str) -> Advance:
            end()
            task = bar.add_task(name, total=1.0)
            return lambda done: bar.update(task, completed=done)

        yield stage
        end()


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
        found |= {"checkpoint": path.name, "sha256": sha256(path)}
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
