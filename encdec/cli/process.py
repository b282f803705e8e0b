"""What the command sets for its whole process, and what `encdec.cli.main` leaves to its caller as it was."""

import atexit
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from encdec.cli import quiet


@contextmanager
def importing() -> Iterator[None]:
    """Within, PyTorch and Lightning are imported, sooner than otherwise."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or a process that dies makes the others print C++ frames
    # what is imported stays, and looking for garbage in it again and again takes a tenth of the start
    gc.disable()
    # Ctrl-C ends the process here and now: nothing is to be saved yet, and an import may swallow a KeyboardInterrupt
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, handler)
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extension modules report at exit what they find not freed
    gc.enable()


def prepare() -> None:
    """Set what makes a training fast, once PyTorch and Lightning are imported, and before they start threads."""
    import torch

    # dark pixels drive gradients, and Adam's squares of them, below 1e-38, where a CPU takes many times as long
    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        # Lightning makes torch open NVIDIA's library at each step of an optimizer, in vain: 0.1 ms
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def hold_back_requeue() -> None:
    """Under Slurm, let the signal that time is up wait until a trainer runs: it would end a process that still loads.

    `encdec.training.signals` lets it in, saves, and puts the job back into the queue.
    """
    if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


@contextmanager
def unchanged() -> Iterator[None]:
    """Within, messages are filtered; after it, that and the environment are as they were before."""
    before = dict(os.environ)
    try:
        with quiet.installed():
            yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
