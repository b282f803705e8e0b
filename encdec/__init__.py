"""encdec: do we really need encoders for generative models?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from os import PathLike
    from pathlib import Path
    from typing import Literal

    from PIL.Image import Image
    from torch import Tensor

    from encdec import data, evaluation, networks, objectives, paradigms, plugins, testing, types
    from encdec.data import DataModule, Images
    from encdec.evaluation.results import Metrics
    from encdec.evaluation.samplers import Sampler
    from encdec.objectives.floors import Floors
    from encdec.paradigms import Paradigm

__version__ = "0.2.0"
_PACKAGES = ("data", "evaluation", "networks", "objectives", "paradigms", "plugins", "testing", "types")
__all__ = [
    "data",
    "evaluate",
    "evaluation",
    "export",
    "floors",
    "load",
    "networks",
    "objectives",
    "paradigms",
    "plugins",
    "show",
    "testing",
    "types",
]


def __getattr__(name: str) -> Any:
    """The packages, which are imported when they are used: torch takes seconds."""
    if name in _PACKAGES:
        return importlib.import_module(f"encdec.{name}")
    raise AttributeError(f"encdec has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """What is public."""
    return ["__version__", *__all__]


def load(checkpoint: str | PathLike[str]) -> Paradigm:
    """The trained paradigm in a checkpoint or an export of one, on the CPU and in evaluation mode, ready to `sample`.

    Only weights and plain values are read, never code; the class must be one that encdec or a plugin defines.

    Raises:
        UserError: there is no such file, it is damaged, or it names a class that is not known.
    """
    from encdec.runs.checkpoints import load_paradigm  # torch is imported only by those who use it

    return load_paradigm(checkpoint)


def export(checkpoint: str | PathLike[str], file: str | PathLike[str] | None = None) -> Path:
    """Write the weights of a checkpoint as safetensors, with all that `load` needs as JSON in the metadata.

    Args:
        checkpoint: a file that `fit` wrote.
        file: where to; beside the checkpoint, with the ending .safetensors, if not given. Folders are made where
            they are missing.

    Returns:
        Where the export is.

    Raises:
        UserError: the checkpoint can't be read, or there is another file in that place.
    """
    from encdec.runs.export import export_checkpoint

    return export_checkpoint(checkpoint, file)


def evaluate(
    model: Paradigm,
    data: DataModule,
    questions: Collection[str] | None = None,
    *,
    num_images: int = 1_000,
    num_samples: int = 10_000,
    posterior_samples: int = 64,
    prior_samples: int = 10_000,
    posterior_steps: int = 200,
    feature_space: Literal["auto", "inception", "classifier", "pca"] = "auto",
    cache_dir: str | None = None,
    sampler: Sampler = "model",
    progress: bool = False,
) -> Metrics:
    """The metrics that the command `test` writes, of a model on the test split of a data set: `metrics["mse"].value`.

    They are the command's on the same device, up to float32 rounding, but for times. The command also checks, by the
    checkpoint, that the model was not trained on the test split; here it is measured on the data that it is given.

    Args:
        model: trained; it is measured in evaluation mode, on its device, and stays as it is.
        data: of the model's image shape.
        questions: some of `reconstruction`, `likelihood`, `samples`, `diversity` and `latent space`; all if None.
        num_images: test images that a posterior is fitted to and whose likelihood is estimated, at most.
        num_samples: samples that are drawn.
        posterior_samples: K of likelihoods by a posterior.
        prior_samples: K of likelihoods by the prior.
        posterior_steps: steps of Adam in the search for an image's posterior.
        feature_space: where samples are compared; see `encdec.callbacks.Evaluate`.
        cache_dir: folder for trained classifiers and what real images score; `lightning_logs/features` if None.
        sampler: what latents of samples are drawn from: `model`, `prior`, `gaussian`, `mixture` or `neighbors`.
        progress: whether the progress is shown.

    Raises:
        UserError: a question is none, a number is not positive, or the model was not made for such data.
    """
    from encdec.api import evaluate

    settings = {
        "num_images": num_images,
        "num_samples": num_samples,
        "posterior_samples": posterior_samples,
        "prior_samples": prior_samples,
        "posterior_steps": posterior_steps,
        "feature_space": feature_space,
        "cache_dir": cache_dir,
    }
    return evaluate(model, data, questions, sampler, progress, settings)


def floors(data: DataModule, split: Literal["train", "val", "test"] = "test", components: int = 0) -> Floors:
    """The losses on a split, known before any training, of the best outputs that do not depend on the image.

    `floors(data).mse["none"]` is the mean image's MSE per pixel, `.mse["label"]` that of the class means, `.bce` has
    their cross-entropies in nats per image; all are of means over the training images, as training draws them.

    Args:
        data: the data set.
        split: where the losses are taken.
        components: of a PCA of the training images, whose MSE `pca_mse` is; 0 leaves it out.

    Raises:
        UserError: there is no such split.
    """
    from encdec.api import floors

    return floors(data, split, components)


def show(
    images: Tensor | Images,
    *below: Tensor,
    num_images: int = 64,
    columns: int | None = None,
    file: str | PathLike[str] | None = None,
) -> Image:
    """An image grid, (N, C, H, W) in [0, 1], which a notebook shows as the value of a cell.

    In a script give a `file`, or call the result's `.show()`, which opens a viewer. Small images are enlarged by a
    whole factor, pixels outside [0, 1] are shown as black or white; one channel is shown grey, two as red and green,
    and of more than three the first three.

    Args:
        images: a tensor; or those of a split, `data.splits["test"]`, of which some of each class are chosen.
        below: tensors of as many images, such as reconstructions, shown in rows below them.
        num_images: how many are shown, at most.
        columns: images in a row.
        file: a PNG file to write, in place of one that is there; folders are made where they are missing.

    Raises:
        UserError: these are no images, or the file can't be written.
    """
    from encdec.api import show

    return show(images, below, num_images, columns, file)
