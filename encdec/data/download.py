"""Downloads of public data sets, by torchvision, once for all processes that share a file system."""

from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

from encdec.types import UserError


def fetch(dataset: Callable[..., Any], data_dir: str, **kwargs: Any) -> Any:
    """A torchvision data set below `data_dir`, downloaded if it is not there yet.

    Raises:
        UserError: the folder can't be written, the download failed, or what is there is damaged.
    """
    name = getattr(dataset, "__name__", str(dataset))
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(data_dir, f".{name}.lock")):
            try:
                return dataset(data_dir, download=False, **kwargs)
            except RuntimeError:  # torchvision's word for "not there, or not intact"
                rank_zero_info(f"Downloading {name} to {data_dir}")
                with redirect_stdout(None):
                    return dataset(data_dir, download=True, **kwargs)
    except (OSError, URLError, RuntimeError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} could not be loaded from {data_dir!r} nor downloaded to it ({reason}): check the network and the "
            "permissions, or put the data set's files there yourself."
        ) from error
