"""Silences what a user can do nothing about, at its source, so that what is left deserves to be read."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
)
_MESSAGES = (
    "GPU available",  # the report's first line names the device
    "TPU available",
    "HPU available",
    "💡 Tip",  # advertisements
    "Seed set to",
    "[rank: ",  # "Seed set to" and "Received SIGTERM", once for each process
    "Initializing distributed",
    "----------------------------------------------------------------------------------------------------",
    "distributed_backend=",
    "`Trainer.",  # "`Trainer.fit` stopped": the report says how it ended
    "`Trainer(",  # what the user has just configured
    "Restoring states from",
    "Restored all states from",
    "Loaded model weights from",
    "`weights_only` was not set",
    "Using bfloat16",  # the first line names the precision
    "Using 16bit",
    "Detected KeyboardInterrupt",  # the report says how to go on
    "Found current_model_state in the checkpoint",  # a run with averaged weights goes on with the others, as it must
)
_WARNINGS = (
    r".*LeafSpec.*is deprecated",  # Lightning calls what this torch deprecates
    r".*smaller than the logging interval",  # means are logged at the end of training in any case
    r".*exists and is not empty",  # a resumed run goes on in its folder
    r"You're resuming from a checkpoint that ended before the epoch ended",  # our loader goes on mid-epoch
    r".*\(ckpt_path=None\)` was called without a model",  # encdec.runs.starts refuses what Lightning would take then
    r'.*\(ckpt_path="last"\) is set, but there is no last checkpoint',
    r"Using ModelCheckpoint with manual optimization and every_n_train_steps",  # what it saves is after the step
    r"You're using the WeightAveraging callback, but loading",  # to measure averaged weights, one needs no more
)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(_MESSAGES)


_FILTER = _Filter()


class _ThreadHook:
    """Leaves out the traceback of TensorBoard's thread on a full disk: the next write raises the same error."""

    def __init__(self) -> None:
        self._before = threading.excepthook

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        is_writer = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(args.exc_value, OSError)):
            self._before(args)


@contextmanager
def installed() -> Iterator[None]:
    """Within, the filters are installed; after it, only those that were before."""
    hook = threading.excepthook
    loggers = [logger for logger in map(logging.getLogger, _LOGGERS) if _FILTER not in logger.filters]
    try:
        with warnings.catch_warnings():
            install()
            yield
    finally:
        threading.excepthook = hook
        for logger in loggers:
            logger.removeFilter(_FILTER)


def install() -> None:
    """Install the filters; calling it again changes nothing."""
    if not isinstance(threading.excepthook, _ThreadHook):
        threading.excepthook = _ThreadHook()
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    outside_jobs = () if "SLURM_JOB_ID" in os.environ else (r"The `srun` command is available",)
    for message in (*_WARNINGS, *outside_jobs):
        warnings.filterwarnings("ignore", message=message)
