"""What stands in a file from a stranger takes neither time nor memory without end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import encdec
from encdec.cli import run_config
from encdec.runs import trust
from encdec.types import UserError
from tests.runs.strangers import config_of, contents, refused, refused_by_cli

# ---------------------------------------------------------------------- without end


@pytest.fixture
def soon() -> Iterator[None]:
    """Ends a test that takes more than ten seconds, as one that waits for a pipe does."""

    def end(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ENDLESS = {
    "aliases": LAUGHS,
    "a circle": "a: &a [*a]",
    "merged": "a: &a {x: 1}\nb: {<<: *a}",
    "deep": "[" * 90_000,
    "deep mappings": "{a: " * 20_000,
    "deep blocks": "\n".join(" " * depth + "a:" for depth in range(300)),
    "wide": f"[{'x, ' * 30_000}]",
    "long": "a: " + "x" * 90_000,
    "large": "a: 1\n" * 100_000,
    "a number": "a: " + "9" * 9_000,
    "a number to the base 60": "a: 1" + ":59" * 3_000,
    "a tag": "a: !!python/name:os.system",
    "a date": "a: 2001-01-01",
    "no text": "a: \x00",
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.usefixtures("soon")
def test_yaml_without_end_is_a_sentence(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text(ENDLESS[kind])
    refused(lambda: run_config.checked(run / "config.yaml"))
    refused_by_cli(["fit", f"--resume={run}"], capsys)


@pytest.mark.usefixtures("soon")
def test_pipes_are_not_waited_for(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    refused_by_cli(["fit", f"--resume={run}", "--model=VAE"], capsys, code=2)
    with pytest.raises(UserError):
        trust.read_yaml(run / "config.yaml")
    (run / "checkpoints" / "last.ckpt").unlink()
    os.mkfifo(run / "checkpoints" / "last.ckpt")
    refused(lambda: encdec.load(run / "checkpoints" / "last.ckpt"))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "change",
    [{"latent_dim": 10**9}, {"image_shape": (1, 10**5, 10**5)},
     {"decoder": {"class_path": "encdec.networks.MLPDecoder", "init_args": {"hidden": [10**7, 10**7]}}},
     {"num_train": 10**15, "_class_path": "encdec_plugins.autodecoder.AutoDecoder"}],
)  # fmt: skip
def test_settings_of_a_huge_model_take_no_memory(change: dict[str, Any], run: Path) -> None:
    """The sizes are compared with those of the weights, of which there are as many as the file has bytes."""
    path = run / "checkpoints" / "last.ckpt"
    good = contents(path)
    good["hyper_parameters"] |= change
    if "_class_path" in change:
        for name in ("encoder", "beta", "warm_up", "free_bits"):
            del good["hyper_parameters"][name]
    torch.save(good, path)
    sentence = refused(lambda: encdec.load(path))
    assert " in the checkpoint and (" in sentence, sentence


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("command", ["fit", "resume", "validate"])
def test_a_config_of_a_huge_model_takes_no_memory(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the checkpoint beside it says the same."""
    path, config = run / "checkpoints" / "last.ckpt", config_of(run)
    good = contents(path)
    good["hyper_parameters"]["latent_dim"] = config["model"]["init_args"]["latent_dim"] = 10**9
    torch.save(good, path)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    args = ["fit", f"--resume={run}"] if command == "resume" else [command, f"--ckpt_path={path}"]
    assert " in the checkpoint and (" in refused_by_cli(args, capsys)


class Called:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "called",
    [Called(bytearray, 10**11), Called(set, "ab"), Called(complex, 1), Called(torch.zeros, 10**11), Called(print, "x"),
     torch.zeros(3).to_sparse()],
    ids=["bytearray", "set", "complex", "zeros", "print", "sparse"],
)  # fmt: skip
def test_a_pickle_calls_nothing_but_what_makes_tensors(called: Any, run: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    torch.save({**contents(path), "metrics": {"a": called}}, path)
    assert "holds code" in refused(lambda: encdec.load(path))
