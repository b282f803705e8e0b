"""Checkpoints that are damaged or foreign are one sentence."""

import contextlib
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import encdec
from encdec.runs.checkpoints import read_checkpoint, verify
from encdec.types import UserError
from tests.runs.strangers import contents, refused, same

# ---------------------------------------------------------------------- damaged


def test_a_truncated_checkpoint_is_refused_at_every_length(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(0, len(whole) - 1, len(whole) // 100), *range(1, 12), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert str(file) in refused(lambda: read_checkpoint(file))


def test_a_flipped_bit_is_found_wherever_it_matters(file: Path) -> None:
    whole, reference = file.read_bytes(), contents(file)
    draw, found = random.Random(0), 0
    for _ in range(250):
        position, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        file.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        try:
            assert same(read_checkpoint(file), reference), f"wrong contents with byte {position} flipped"
        except UserError:
            found += 1
    assert found > 50, "the rest are times, padding and the like"


def test_the_damaged_record_is_named(file: Path) -> None:
    whole = file.read_bytes()
    weights = contents(file)["state_dict"]["encoder.layers.0.weight"].numpy().tobytes()
    position = whole.index(weights) + 17
    file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    sentence = refused(lambda: verify(file))
    assert "damaged (record " in sentence
    assert "data/" in sentence
    assert refused(lambda: encdec.load(file)) == sentence


def test_a_rewritten_pickle_never_raises_anything_else(file: Path, project: Path) -> None:
    """The checksums are right, what they sum is not: what someone can write who wants to do harm."""
    draw = random.Random(0)
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    for _ in range(80):
        pickled = bytearray(records[name])
        for _ in range(draw.choice([1, 1, 1, 4])):
            pickled[draw.randrange(len(pickled))] = draw.randrange(256)
        with zipfile.ZipFile(file, "w") as archive:
            for other, content in records.items():
                archive.writestr(other, bytes(pickled) if other == name else content)
        with contextlib.suppress(UserError):
            read_checkpoint(file)


WRONG: dict[str, Any] = {
    "state_dict": [None, [], "", 3, {1: torch.zeros(1)}, {"a": 1}, {"a": torch.zeros(1).to_sparse()},
                   {"a": torch.zeros(1).expand(10**12)}, {"a": torch.zeros(1, device="meta")}],
    "hyper_parameters": [None, [], "VAE", {}, {"_class_path": 3}, {"_class_path": "VAE", 3: 4}],
    "global_step": [None, -1, 2.0, "3", True, 10**30],
    "epoch": [None, -1, torch.zeros(1), [1]],
    "pytorch-lightning_version": [None, 2, "", "x.y", "0.0.1", "2.6.6; x", "1" * 3000],
    "encdec": [None, 1, {}, {"format": "1"}, {"format": -1}, {"format": 3, "version": "9.0"}, {"format": 4}],
    "loops": [None, 1, [], {}, {"fit_loop": {}}, {"fit_loop": {"epoch_progress": {"current": {"processed": "3"}}}}],
    "callbacks": [None, [], {"a": 1}, {"a": {"best_model_path": "runs/../../../etc/x"}},
                  {"a": {"last_model_path": "s3://x/y"}}, {"a": {"best_k_models": {"a/../..": 1}}},
                  {"a": {"kth_best_model_path": 5}}],
    "metrics": [None, [1], {"val/loss": "low"}, {"val/loss": [1]}],
    "optimizer_states": [None, {}, 3],
    "training_curve": [[], 3, {"logged_step": 1}, {"logged_step": -1, "names": [], "totals": []},
                       {"logged_step": 1, "names": ["a"], "totals": [[1.0]]},
                       {"logged_step": 1, "names": ["a"], "totals": [["1", "2"]]},
                       {"logged_step": 1, "names": 5, "totals": []}],
}  # fmt: skip


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_of_a_wrong_type_is_one_sentence(entry: str, file: Path) -> None:
    good = contents(file)
    for value in WRONG[entry]:
        torch.save({**good, entry: value}, file)
        sentence = refused(lambda: read_checkpoint(file))
        assert str(file) in sentence
    if entry in ("state_dict", "hyper_parameters", "global_step", "epoch", "pytorch-lightning_version"):
        torch.save({name: value for name, value in good.items() if name != entry}, file)
        refused(lambda: read_checkpoint(file))


def test_methods_hidden_by_what_a_file_says_are_refused(file: Path) -> None:
    state = OrderedDict(contents(file)["state_dict"])
    state.__dict__["copy"] = "no method"
    torch.save({**contents(file), "state_dict": state}, file)
    refused(lambda: read_checkpoint(file))


@pytest.mark.parametrize("kind", ["a list", "text", "empty", "noise", "old torch", "script", "packed", "bomb"])
def test_what_is_no_checkpoint_is_refused(kind: str, file: Path) -> None:
    if kind == "a list":
        torch.save([1], file)
    elif kind == "text":
        file.write_text("a text that is long enough")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(random.Random(0).randbytes(5000))
    elif kind == "old torch":
        torch.save(contents(file), file, _use_new_zipfile_serialization=False)
    elif kind == "script":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/constants.pkl", b"x")
            archive.writestr("x/data.pkl", b"x")
            archive.writestr("x/version", b"3")
    elif kind == "packed":
        with zipfile.ZipFile(file) as archive:
            records = {record.filename: archive.read(record) for record in archive.infolist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in records.items():
                archive.writestr(name, content)
    else:  # ten records that are the same bytes
        with zipfile.ZipFile(file, "w") as archive:
            for i in range(10):
                archive.writestr(f"x/data/{i}", bytes(5000))
            for info in archive.infolist():
                info.header_offset = 0
    sentence = refused(lambda: read_checkpoint(file))
    assert {"old torch": "format that PyTorch used until 2020", "packed": "packed"}.get(kind, "") in sentence


def test_weights_that_are_not_finite_are_refused(file: Path) -> None:
    state = contents(file)
    state["state_dict"]["encoder.layers.0.bias"][1] = float("nan")
    torch.save(state, file)
    assert "not finite (encoder.layers.0.bias)" in refused(lambda: encdec.load(file))
