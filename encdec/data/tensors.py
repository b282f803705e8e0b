"""Images and labels that somebody gives as tensors: looked at before a network is given them."""

import torch
from torch import Tensor

from encdec.types import Batch, Shape, UserError

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def checked_images(what: str, images: object, image_shape: Shape) -> Tensor:
    """Images, if they are: (N, C, H, W), floating point, in [0, 1].

    Args:
        what: who asks for them, for the errors.
        images: any object.
        image_shape: channels, height, width.

    Raises:
        UserError: they are none of that shape, or of integers, or a pixel is NaN, infinite or outside [0, 1].
    """
    shape = f"(N, {', '.join(map(str, image_shape))})"
    if not isinstance(images, Tensor):
        raise UserError(
            f"{what}: images must be a tensor {shape} with pixels in [0, 1], but they are a {type(images).__name__}."
        )
    if images.shape[1:] != image_shape or not len(images):
        found = tuple(images.shape)
        single = "; images[None] makes a batch of a single one" if found == tuple(image_shape) else ""
        raise UserError(f"{what}: images have the shape {found}, but it must be {shape}, N at least 1{single}.")
    if not images.is_floating_point():
        eight_bits = "; images / 255 makes them of pixels from 0 to 255" if images.dtype == torch.uint8 else ""
        raise UserError(
            f"{what}: pixels must be floating-point numbers in [0, 1], but they are {_type(images)}{eight_bits}."
        )
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # so NaN is outside
        raise UserError(
            f"{what}: pixels must be finite and lie in [0, 1], but they go from {low:g} to {high:g}: scale them, or "
            "leave out a normalization of theirs."
        )
    return images


def checked_batch(what: str, batch: object, image_shape: Shape) -> Batch:
    """A batch, if it is one, of images of a shape; its pixels are not looked at.

    Args:
        what: who asks for it, for the errors.
        batch: any object.
        image_shape: channels, height, width.

    Raises:
        UserError: it is none, or its images have another shape.
    """
    if not isinstance(batch, Batch):
        raise UserError(
            f"{what}: a Batch (see encdec.types) is needed, as the loaders of a data set give, such as "
            f"data.test_dataloader(), but it is of type {type(batch).__name__}."
        )
    if batch.x.shape[1:] != image_shape:
        shape = f"(B, {', '.join(map(str, image_shape))})"
        raise UserError(f"{what}: the batch's images have the shape {tuple(batch.x.shape)}, but it must be {shape}.")
    return batch


def checked_labels(what: str, y: object, num_classes: int, count: int | None = None) -> Tensor:
    """Labels, int64, (N,), if they are, or the classes in turn if `y` is a number of them.

    Args:
        what: who asks for them, for the errors.
        y: any object.
        num_classes: how many classes there are; labels of a model with one, which has none, are not looked at.
        count: how many labels there must be, if that is known.

    Raises:
        UserError: they are none, or of a class that there is not.
    """
    if isinstance(y, int) and not isinstance(y, bool) and count is None:
        if y < 1:
            raise UserError(f"{what}: {y} images are asked for, but it must be at least 1.")
        return torch.arange(y) % num_classes
    if not isinstance(y, Tensor):
        number = ", or a number of images," if count is None else ","
        found = f"a {type(y).__name__}" if not isinstance(y, int) else repr(y)
        raise UserError(f"{what}: y must be a tensor of labels, int64 (N,){number} but it is {found}.")
    if y.ndim != 1 or y.dtype not in _INTEGERS or not len(y) or count not in (None, len(y)):
        wanted = f"int64 ({'N' if count is None else count},)"
        more = ", N at least 1" if count is None else ", one for each image"
        raise UserError(f"{what}: labels are {_type(y)} {tuple(y.shape)}, but they must be {wanted}{more}.")
    y = y.long()
    if num_classes > 1 and (int(y.min()) < 0 or int(y.max()) >= num_classes):
        raise UserError(
            f"{what}: labels go from {int(y.min())} to {int(y.max())}, but the model has {num_classes} classes, so "
            f"they must lie in 0…{num_classes - 1}."
        )
    return y


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
