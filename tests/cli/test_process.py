"""What is set for the whole process is set by the command, not by an import and not by a call of `main`."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from encdec.cli import main, quiet
from tests.conftest import ON_CPU, ROOT

DENORMAL = 1e-40
FIT = ("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
       "--floors.enabled=false", *ON_CPU)  # fmt: skip


@pytest.fixture
def denormals() -> Iterator[None]:
    """As torch begins."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def state() -> dict[str, Any]:
    return {
        "denormal numbers": (torch.full((1,), DENORMAL) * 1).item() > 0,
        "environment": dict(os.environ),
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "warnings": list(warnings.filters),
        "threads": threading.excepthook,
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "loggers": [list(logging.getLogger(name).filters) for name in quiet._LOGGERS],
    }


@pytest.mark.parametrize(
    ("args", "code"),
    [(FIT, None), ((*FIT, "--model.latent_dim=-1"), 2), (("fit", "--modle=VAE"), 2), (("validate",), 2)],
    ids=["a training", "a model that can't be", "a wrong flag", "no checkpoint"],
)
def test_a_call_leaves_the_process_as_it_was(
    args: tuple[str, ...], code: int | None, denormals: None, project: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(variable, raising=False)  # which Lightning sets
    before = state()
    if code is None:
        main(args)
    else:
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == code
    after = state()
    for name, value in before.items():
        assert after[name] == value, name
    assert before["denormal numbers"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_command_flushes_denormal_numbers_and_an_import_does_not() -> None:
    shown = f"import torch; print((torch.full((1,), {DENORMAL}) * 1).item() > 0)"
    imported = "import encdec, encdec.__main__, encdec.cli.command_line, encdec.testing"
    call = "import sys; sys.argv = ['encdec', 'export']\nfrom encdec.__main__ import main\n"
    call += "try: main()\nexcept SystemExit: pass"
    assert python(f"{imported}; {shown}") == "True"
    assert python(f"{call}\n{shown}") == "False"
