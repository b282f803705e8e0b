"""Picture files: which formats are read, how one becomes pixels, and what is said about those that do not."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from encdec.types import Shape, UserError

# Pillow's other formats are never tried, whatever a file is called: for PostScript it starts Ghostscript
ENDINGS_OF = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Pillow's names of the formats that are read, and the endings of their files in lower case."""
for _name in ("AVIF", "WEBP"):
    if not features.check(_name.lower()):  # this Pillow was built without it
        del ENDINGS_OF[_name]
FORMATS = tuple(ENDINGS_OF)
ENDINGS = frozenset(ending for endings in ENDINGS_OF.values() for ending in endings)
CUT = "set data.size to N or to [height, width], which cuts all to N×N or to height×width pixels"
"""What to do where pictures differ in size."""
_SHOWN = 10
_SPARE = 2
"""How many times as wide and high as the image a JPEG is at least decoded, if it is larger than that."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = ExifTags.Base.BitsPerSample, ExifTags.Base.PhotometricInterpretation, 0


class PictureError(UserError):
    """A picture that can't be used.

    Attributes:
        problem: the picture and what is wrong with it.
        advice: what to do.
        damaged: whether its file can't be decoded, now and later, on any machine.
    """

    def __init__(self, problem: str, advice: str, damaged: bool = False) -> None:
        super().__init__(f"ImageFolder: {problem}: {advice}.")
        self.problem, self.advice, self.damaged = problem, advice, damaged

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels from the processes that read pictures."""
        return type(self), (self.problem, self.advice, self.damaged)


def listed(errors: Sequence[PictureError]) -> str:
    """The first ten problems, and how many more there are."""
    more = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return "; ".join(error.problem for error in errors[:_SHOWN]) + more


def combined(errors: Sequence[PictureError], can_skip: bool) -> UserError:
    """One error for all pictures that can't be used.

    Args:
        errors: at least one.
        can_skip: name the setting that leaves out damaged ones.
    """
    advices = list(dict.fromkeys(error.advice for error in errors))
    if can_skip and any(error.damaged for error in errors):
        advices.append("or set data.skip_damaged to true, which leaves out what can't be decoded")
    if len(errors) == 1:
        return UserError(f"ImageFolder: {errors[0].problem}: {', '.join(advices)}.")
    return UserError(
        f"ImageFolder: {len(errors)} pictures can't be used: {listed(errors)}. For each: {', '.join(advices)}."
    )


class Header(NamedTuple):
    """What a picture's file says before its pixels; width and height as it is shown."""

    mode: str
    width: int
    height: int

    @property
    def channels(self) -> int:
        """1 for grey levels, 3 for colors."""
        return 1 if Image.getmodebase(self.mode) == "L" else 3

    @property
    def kind(self) -> str:
        """Grey or color, in words."""
        return f"{'grey' if self.channels == 1 else 'color'} (Pillow's mode {self.mode})"


def read_header(path: Path, index: int, decode: bool = False) -> Header:
    """The header of a picture file.

    Args:
        path: the file.
        index: its position among the data set's pictures, for the errors.
        decode: decode the pixels too, so that a damaged file is found.

    Raises:
        PictureError: the file can't be read, or not be decoded.
    """
    with _opened(path, index) as file:
        width, height = file.size
        if _is_on_its_side(file):
            width, height = height, width
        mode = file.mode
        if decode:
            file.load()
        return Header(mode, width, height)


def read_picture(path: Path, image_shape: Shape, index: int = 0, as_it_is: bool = False) -> Tensor:
    """A picture file as uint8 pixels of `image_shape`, (C, H, W).

    Args:
        path: the file.
        image_shape: channels, height, width.
        index: its position among the data set's pictures, for the errors.
        as_it_is: refuse a picture that has another size, instead of cutting it.

    Raises:
        PictureError: the file can't be decoded, or its values or its size are not what they must be.
    """
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    with _opened(path, index) as file:
        if not as_it_is:  # a JPEG that is much too large is decoded at a half, a quarter or an eighth of its size
            wanted = (_SPARE * width, _SPARE * height)
            file.draft(None, wanted[::-1] if _is_on_its_side(file) else wanted)
        # in place, and no convert() to the same mode: both would copy the picture in its full size
        ImageOps.exif_transpose(file, in_place=True)
        if as_it_is and file.size != (width, height):
            raise PictureError(
                f"{path} (picture {index}) has {file.width}×{file.height} pixels, but the others have {width}×{height}",
                f"{CUT}, or replace it",
            )
        picture: Image.Image = file
        if file.mode == "F" or file.mode.startswith("I"):
            picture = _eight_bits(file, f"{path} (picture {index})")
        elif file.has_transparency_data:
            picture = Image.new("RGBA", file.size, "white")
            picture.alpha_composite(file.convert("RGBA"))
        picture = picture if picture.mode == mode else picture.convert(mode)
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).reshape(height, width, channels).permute(2, 0, 1)


def _is_on_its_side(file: Image.Image) -> bool:
    """Whether width and height of a picture change places when it is turned as its camera says."""
    # a TIFF's size is as it is shown; a PNG's own getexif() would decode the picture
    return file.format != "TIFF" and Image.Image.getexif(file).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


@contextmanager
def _opened(path: Path, index: int) -> Iterator[Image.Image]:
    """A picture file, and one sentence for whatever goes wrong with it."""
    what = f"{path} (picture {index})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                yield file
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            f"{what} has more than {Image.MAX_IMAGE_PIXELS} pixels, as files have that are made to fill the memory",
            "replace it by a smaller copy, or delete it",
            damaged=True,
        ) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{what} can't be decoded (its content is none of {', '.join(FORMATS)})",
            "replace or delete it",
            damaged=True,
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds, SyntaxError and struct.error among them
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        # what the system could not do, for want of memory or of the network, may succeed the next time
        of_the_system = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        raise PictureError(
            f"{what} can't be {'read' if of_the_system else 'decoded'} ({reason})",
            "make it readable, replace or delete it" if of_the_system else "replace or delete it",
            damaged=not of_the_system,
        ) from error


def _eight_bits(file: Image.Image, what: str) -> Image.Image:
    """Grey levels of more bits, or floating-point ones, as 8-bit ones; Pillow would cut them off at 255."""
    tags = getattr(file, "tag_v2", {})
    white = 1 if file.mode == "F" else 4095 if tags.get(_BITS) == (12,) else 65535
    values = np.asarray(file).astype(np.float64)
    outside = ~((values >= 0) & (values <= white))  # so NaN is outside
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise PictureError(
            f"{what} has the value {values[row, column]:g} in row {row}, column {column}, but its values must be "
            f"finite and go from 0, black, to {white}, white",
            "scale or replace it",
        )
    grey = np.rint(values * 255 / white)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in file.info:  # the one value of a PNG that is transparent
        grey[values == file.info["transparency"]] = 255
    return Image.fromarray(grey.astype(np.uint8))
