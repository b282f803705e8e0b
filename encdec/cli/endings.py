"""How a command ends that failed: with one sentence, and an exit code."""

import sys
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException

from encdec.cli import errors
from encdec.files import disk_is_full
from encdec.messages import fail
from encdec.training import signals


def end(error: Exception) -> NoReturn:
    """Say what an error means, and end this process.

    Raises:
        SystemExit: with 2 for a wrong call, 1 for a fault at run time.
    """
    meant = errors.user_error(error)
    if meant is not None:
        _fail(str(meant), meant.exit_code)
    if isinstance(error, OSError) and disk_is_full(error):  # while TensorBoard writes, for example
        what = error.filename or "a file of the run"
        _fail(f"{what} can't be written ({error.strerror}); what was saved before is still there. Make room.", 1)
    if isinstance(error, MisconfigurationException) or (isinstance(error, OSError) and not errors.of_plugin(error)):
        _fail(" ".join(str(error).split()), 2 if isinstance(error, MisconfigurationException) else 1)
    if isinstance(error, ModuleNotFoundError) and error.name:
        _fail(f"the package {error.name} is not installed, which this needs: {' '.join(str(error).split())}.", 2)
    if errors.is_out_of_memory(error):
        _fail("there is not enough memory for this: make the networks, latent_dim or data.batch_size smaller.", 1)
    if signals.is_lost_process(error):
        _fail("another process of this run has ended, so this one ends too; --resume continues the run.", 1)
    _fail(errors.unexpected(error), 1)


def _fail(text: str, code: int) -> NoReturn:
    """`fail`, on the one process of many that is the first to do so; the errors of others follow from its end."""
    if not signals.is_one_of_many():
        fail(text, code)
    if signals.is_first_to_fail():
        print(f"encdec: error: {text}", file=sys.stderr, flush=True)
    raise SystemExit(code)
