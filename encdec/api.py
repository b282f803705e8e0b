"""What `import encdec` gives, behind names that are imported when they are used."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from encdec import signatures
from encdec.callbacks.evaluate import FEATURES, Evaluate, add_means, shown_stages
from encdec.data import DataModule, Images
from encdec.data.fingerprints import fingerprint
from encdec.data.loader import Loader
from encdec.evaluation.context import Context
from encdec.evaluation.grids import as_picture, as_png, comparison, eight_bits, enlarge, shown_images
from encdec.evaluation.image_values import ImageValues
from encdec.evaluation.questions import QUESTIONS
from encdec.evaluation.results import Metrics
from encdec.evaluation.samplers import Sampler, check_sampler
from encdec.evaluation.view import View
from encdec.evaluation.whole import Part, Plan, evaluate_all
from encdec.files import expanded, written_whole
from encdec.messages import suggestion
from encdec.objectives.floors import Floors, Moments
from encdec.objectives.pca import principal_components
from encdec.paradigms import LatentVariable, Paradigm
from encdec.training.contract import check_data
from encdec.training.split_means import SplitMeans
from encdec.types import Conditioning, UserError, scaled

_PARTS: dict[str, Part] = {
    "reconstruction": "reconstruction",
    "likelihood": "likelihood",
    "samples": "samples",
    "diversity": "samples",
    "latent space": "latent",
}
"""The part that answers each question."""
_BRIGHTEST = 2.0
"""Images with noise have pixels beyond 1, which are shown as white; pixels from 0 to 255 are no such noise."""


def floors(data: DataModule, split: Literal["train", "val", "test"] = "test", components: int = 0) -> Floors:
    """See `encdec.floors`."""
    if not isinstance(data, DataModule):
        raise UserError(f"floors: data must be a data module, such as Digits(), but it is a {type(data).__name__}.")
    signatures.check_call("floors", floors, split=split, components=components)
    if components < 0:
        raise UserError(f"floors: components is {components}, but it can't be negative.")
    images, pca = data.splits["train"], None
    if components > 0:
        pca = principal_components(images, components, drawing=data.drawing)
    train = Moments.of(images, pca).drawn(data.drawing, data.image_shape)
    return Floors.of(train, train if split == "train" else Moments.of(data.splits[split], pca))


def evaluate(
    model: Paradigm,
    data: DataModule,
    questions: Collection[str] | None,
    sampler: Sampler,
    progress: bool,
    settings: dict[str, Any],
) -> Metrics:
    """See `encdec.evaluate`; `settings` are those of `Evaluate`."""
    if not isinstance(model, Paradigm) or not isinstance(data, DataModule):
        found = " and ".join(type(one).__name__ for one in (model, data))
        raise UserError(f"evaluate: a paradigm and a data module are needed, such as VAE and Digits, but not {found}.")
    signatures.check_call("evaluate", evaluate, sampler=sampler, progress=progress)
    signatures.check(Evaluate, settings, "evaluate")
    check_data(model, data, "evaluated")
    check_sampler(model, sampler)
    parts, given = _parts(questions), Evaluate(**settings)  # which checks them
    folder = Path(expanded(given.cache_dir or FEATURES))
    prints = {split: fingerprint(data.splits[split]) for split in ("train", "test")}
    plan = Plan(parts, given.feature_space, folder, sampler, model.decoder_calls)
    with _as_it_was(model), torch.inference_mode(False), torch.no_grad(), shown_stages(progress) as stage:
        context = Context(
            View(model),
            data.splits["train"],
            data.splits["test"],
            num_images=given.num_images,
            num_samples=given.num_samples,
            posterior_samples=given.posterior_samples,
            prior_samples=given.prior_samples,
            posterior_steps=given.posterior_steps,
        )
        _measure(model, data, context)
        evaluate_all(context, plan, prints, stage)
    return context.metrics


def _measure(model: Paradigm, data: DataModule, context: Context) -> None:
    """Add the means of the objective's terms over the test split, with their floors."""
    if model.conditioning is not None:
        sees_image = model.conditioning is Conditioning.IMAGE
        components = model.latent_dim if sees_image and isinstance(model, LatentVariable) else 0
        model.floors["test"] = floors(data, "test", components)
    means = SplitMeans(model)
    means.begin_test()
    for batch in Loader(context.test, data.evaluation_batch_size, 0, 1, device=model.device, split="test"):
        means.measure(batch._replace(x=batch.x.to(model.weights_dtype)))
    measured = {name: value.item() for name, value in means.values("test").items()}
    of_images = {name: ImageValues(values.double().cpu().numpy()) for name, values in means.of_images()[1].items()}
    add_means(context, measured, of_images)


def _parts(questions: Collection[str] | None) -> list[Part]:
    known = {question.name: _PARTS[question.name] for question in QUESTIONS}
    given = [questions] if isinstance(questions, str) else questions
    if not isinstance(given, Collection | None):
        raise UserError(f"evaluate: questions must be a list of them, but it is of type {type(given).__name__}.")
    asked = [*known] if given is None else [*given]
    for name in asked:
        if name not in known:
            hint = suggestion(str(name), known)
            raise UserError(f"evaluate: {name!r} is not a question{hint}; the questions are {', '.join(known)}.")
    return list(dict.fromkeys(known[name] for name in asked))


@contextmanager
def _as_it_was(model: Paradigm) -> Iterator[None]:
    """Within, a model is in evaluation mode, where sums can be float64; after it, it is what it was before."""
    device = model.device
    training = [module for module in model.modules() if module.training]
    floors_before, ex_post = dict(model.floors), getattr(model, "ex_post", None)
    model.eval()
    if device.type == "mps":  # Apple's GPUs have no float64
        model.cpu()
    try:
        yield
    finally:
        model.to(device)
        for module in training:
            module.training = True
        model.floors = floors_before
        if isinstance(model, LatentVariable):
            model.ex_post = ex_post


def show(
    images: Tensor | Images,
    below: Sequence[Tensor],
    num_images: int,
    columns: int | None,
    file: str | PathLike[str] | None,
) -> Image.Image:
    """See `encdec.show`."""
    require_count("show", "num_images", num_images)
    path = None if file is None else Path(expanded(file))
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"show: file is {str(file)!r}, but it would hold a PNG: give it a name that ends with .png.")
    rows = [_some(images, num_images) if isinstance(images, Images) else images, *below]
    for row in rows:
        _check_shown(row, rows[0])
    rows = [row[:num_images] for row in rows]
    count = len(rows[0])
    if columns is not None:
        require_count("show", "columns", columns)
    pixels = enlarge(eight_bits(comparison(rows, min(count, columns or (8 if count % 10 else 10)))))
    if path is not None:
        with written_whole(path) as opened:
            opened.write(as_png(pixels))
    return as_picture(pixels)


def require_count(what: str, name: str, count: object) -> None:
    """Check that a number of images is one.

    Raises:
        UserError: it is not.
    """
    if type(count) is not int or count < 1:
        raise UserError(f"{what}: {name} is {count!r}, but it must be a whole number, at least 1.")


def _some(images: Images, most: int) -> Tensor:
    """Images to look at, some of each class."""
    (pixels,) = images.stream([shown_images(images.labels, most)])
    return scaled(pixels)


def _check_shown(row: object, first: Any) -> None:
    if not isinstance(row, Tensor):
        of_data = ": its own show() shows it" if isinstance(row, DataModule) else ""
        raise UserError(f"show: images must be tensors (N, C, H, W), but one is of type {type(row).__name__}{of_data}.")
    if row.ndim != 4 or not row.numel():
        single = "; images[None] makes a batch of a single one" if row.ndim == 3 else ""
        raise UserError(
            f"show: images must be tensors (N, C, H, W), each size at least 1, but one is of shape "
            f"{tuple(row.shape)}{single}."
        )
    if (len(row), *row.shape[2:]) != (len(first), *first.shape[2:]):
        raise UserError(
            "show: there must be as many images below as above, of the same height and width, but one tensor is of "
            f"shape {tuple(row.shape)} and the first of {tuple(first.shape)}."
        )
    if not row.is_floating_point():
        levels = ": images / 255 makes them of pixels from 0 to 255" if row.dtype == torch.uint8 else ""
        raise UserError(f"show: pixels must be floating-point numbers in [0, 1], but they are {row.dtype}{levels}.")
    if not bool(row.isfinite().all()):
        raise UserError("show: pixels must be finite, but some are infinite or NaN.")
    if float(row.detach().max()) > _BRIGHTEST:
        raise UserError(
            f"show: pixels must lie in [0, 1], but they go up to {float(row.max()):g}: images / 255 makes them of "
            "pixels from 0 to 255."
        )
