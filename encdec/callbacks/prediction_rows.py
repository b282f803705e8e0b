"""Rows of predictions on the disk, where memory would not hold them, and files whose content is there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from encdec.evaluation.context import block_size


@contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """A file whose content is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class Rows:
    """Rows of named tensors, written to one file each as they come, so that memory holds no more than one batch.

    Args:
        stem: beginning of the files' paths.

    Attributes:
        formats: size of a row and type, by name; empty before the first rows.
    """

    def __init__(self, stem: Path) -> None:
        self.formats: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._stem = stem
        self._files: dict[str, BinaryIO] = {}

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Add rows, (B, …) each."""
        for name, value in rows.items():
            value = (value.float() if value.is_floating_point() else value).cpu().contiguous()
            if name not in self._files:
                self._files[name] = open(_path(self._stem, name), "wb")  # noqa: SIM115  # closed by close()
                self.formats[name] = value.shape[1:], value.dtype
            self._files[name].write(value.numpy().data)

    def close(self) -> None:
        """Nothing more will come."""
        with ExitStack() as stack:  # all of them, even if one can't be
            for file in self._files.values():
                stack.callback(file.close)

    def read(self, stem: Path) -> dict[str, Tensor]:
        """What lies in another process's files (or these), (n, …) each, mapped into memory as far as it is read."""
        return {name: _mapped(_path(stem, name), shape, dtype) for name, (shape, dtype) in self.formats.items()}

    def abandon(self) -> None:
        """Close what will not be read."""
        with suppress(OSError):  # on a full disk, closing fails as writing did
            self.close()


def _path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")


def _mapped(path: Path, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A file as a tensor (rows, …), mapped into memory."""
    size = path.stat().st_size // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype).reshape(-1, *shape)


def interleaved(parts: list[dict[str, Tensor]], stem: Path) -> dict[str, Tensor]:
    """The rows of all processes in the order of the split, of which each process had every `len(parts)`-th."""
    whole = {}
    for name, first in parts[0].items():
        path = _path(stem, name)
        of_all = [part[name] for part in parts]
        at_once = block_size(max(first[0].numel() * len(parts), 1))
        # written, not assigned to a mapped file: on a full disk that would be a fatal signal
        with path.open("wb") as file:
            for start in range(0, len(first), at_once):
                blocks = [part[start : start + at_once] for part in of_all]
                block = first.new_empty((sum(map(len, blocks)), *first.shape[1:]))
                for rank, rows in enumerate(blocks):
                    block[rank :: len(parts)] = rows
                file.write(block.numpy().data)
        whole[name] = _mapped(path, first.shape[1:], first.dtype)
    return whole
