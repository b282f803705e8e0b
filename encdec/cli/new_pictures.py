"""`predict --data ImageFolder --data.path NEW`: all pictures of a folder that the model was not trained on."""

import inspect
from pathlib import Path
from typing import Any

from encdec.data import ImageFolder
from encdec.data.pictures.listing import has_splits
from encdec.files import expanded
from encdec.paradigms import Paradigm
from encdec.runs import identity
from encdec.types import UserError

_KEPT = ("batch_size", "max_memory_gb", "num_workers", "path", "seed", "skip_damaged")
"""Settings of an ImageFolder that do not say which pictures there are and what they are made to fit."""


def take(config: Any, contents: dict[str, Any]) -> bool:
    """Whether a call names a folder of pictures, without splits, that a checkpoint was not trained on.

    If so, the data of the call become these pictures, in the size and colors of the checkpoint's model.

    Args:
        config: of the call; its data may be replaced.
        contents: of the checkpoint.

    Raises:
        UserError: the call asks for another size or other colors, or pictures can't have those of the model.
    """
    data = config.data
    if data.class_path.rpartition(".")[2] != ImageFolder.__name__:
        return False
    path = Path(expanded(data.init_args.path))
    before = identity.of_checkpoint(contents).get("data", {})
    place = (before.get("init_args") or {}).get("path")
    of_folder = str(before.get("class_path")).endswith(ImageFolder.__name__)
    known = Path(expanded(place)).resolve() if of_folder and isinstance(place, str) else None
    if known == path.resolve() or not path.is_dir() or has_splits(path):
        return False
    sizes = {name: contents["hyper_parameters"].get(name, 1) for name in ("image_shape", "num_classes", "num_train")}
    channels, height, width = sizes["image_shape"]
    if channels not in (1, 3):
        raise UserError(f"The model's images have {channels} channels, but pictures have 1 or 3.", 2)
    mode, size = "grey" if channels == 1 else "color", data.init_args.size
    given = [size, size] if isinstance(size, int) else size and list(size)
    usual = {name: inspect.signature(ImageFolder).parameters[name].default for name in ("mode", "size")}
    if data.init_args.mode not in (mode, usual["mode"]) or (size != usual["size"] and given != [height, width]):
        raise UserError(
            f"The pictures are made to fit the model, whose images are {mode} and have {height}×{width} pixels: leave "
            "data.size and data.mode out.",
            2,
        )
    from encdec.data.new_pictures import NewPictures  # which is no data set that a run could be trained on

    settings = {name: data.init_args[name] for name in _KEPT if name in data.init_args}
    class_path = f"{NewPictures.__module__}.{NewPictures.__qualname__}"
    config.data.class_path = class_path
    config.data.init_args = type(config)(**settings, **sizes)
    return True


def check(model: Paradigm, sampler: str) -> None:
    """Check that there is something to predict of pictures without labels.

    Raises:
        UserError: there is not.
    """
    name = type(model).__name__
    if "encode" in model.lacks or not hasattr(model, "encode"):
        raise UserError(f"{name} has no latents of images, so there is nothing to predict of new pictures.", 2)
    if model.reads_labels:
        raise UserError(f"{name} reads labels, which new pictures do not have, so it can't reconstruct them.", 2)
    if sampler not in ("model", "prior"):
        raise UserError(
            f"--sampler {sampler} is fitted to the latents of the training images, which are not among new pictures: "
            "leave it out.",
            2,
        )
