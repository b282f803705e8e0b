"""Checkpoints as safetensors, which other programs read without PyTorch or encdec."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from encdec import __version__, plugins
from encdec.data.fingerprints import KEY, identity_in
from encdec.files import expanded, written_whole
from encdec.formats import CHECKPOINT_FORMAT
from encdec.runs.checkpoints import METADATA_KEY, digest, paradigm_class, read_back, read_checkpoint
from encdec.types import UserError

ENDING = ".safetensors"


def export_checkpoint(checkpoint: str | PathLike[str], file: str | PathLike[str] | None = None) -> Path:
    """See `encdec.export`."""
    target = Path(expanded(checkpoint)).with_suffix(ENDING) if file is None else Path(expanded(file))
    if target.suffix != ENDING:
        raise UserError(f"{target} would hold safetensors: give it a name that ends with {ENDING}.", 2)
    plugins.load()
    contents = read_checkpoint(checkpoint)
    paradigm_class(contents, checkpoint)
    hparams = {name: value for name, value in contents["hyper_parameters"].items() if not name.startswith("_")}
    metadata: dict[str, Any] = {
        "format": CHECKPOINT_FORMAT,
        "version": __version__,
        "paradigm": contents["hyper_parameters"]["_class_path"],
        "hyper_parameters": hparams,
        "step": contents["global_step"],
        "epoch": contents["epoch"],
        "metrics": contents.get("metrics", {}),
    }
    data = identity_in(contents, checkpoint)
    if data is not None:  # but not each image's number, which are many
        metadata[KEY] = {**data.as_dict(), "trained_on": {}}
    # each with memory of its own and in order, as the format wants it
    weights = {
        name: torch.clone(weight.detach(), memory_format=torch.contiguous_format)
        for name, weight in contents["state_dict"].items()
    }
    try:
        if json.loads(json.dumps(hparams)) != _as_lists(hparams):
            raise TypeError("a key that is not text")
        metadata["sha256"] = digest(metadata, weights)
        content = safetensors.torch.save(weights, {METADATA_KEY: json.dumps(metadata)})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{checkpoint} holds what safetensors with JSON can't: {error}.") from error
    if target.exists():
        if not target.is_file() or target.read_bytes() != content:
            raise UserError(f"{target} is there already and differs: delete it, or give another name.", 2)
        return target
    with written_whole(target, check=read_back) as out:
        out.write(content)
    return target


def _as_lists(value: Any) -> Any:
    """A value with its tuples as lists, which is what JSON makes of them."""
    if isinstance(value, dict):
        return {name: _as_lists(inner) for name, inner in value.items()}
    return [_as_lists(inner) for inner in value] if isinstance(value, list | tuple) else value
