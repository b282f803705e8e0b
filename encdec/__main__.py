"""`python -m encdec`, and the console script `encdec`."""

import atexit
import gc
import os
import signal
import sys

from encdec.cli import streams
from encdec.cli.commands import answer
from encdec.messages import say

_WRITES = ("fit", "test", "predict", "export")
"""Commands whose results are files: they have done their work even if what they print is lost."""


def main() -> None:
    """Run the command line, whatever becomes of its output.

    Raises:
        SystemExit: see `encdec.cli.main`; with 1 also where what is printed is the result, and can't be written.
    """
    streams.prepare()
    code: object = 0
    try:
        _run()
    except SystemExit as end:
        code = end.code
    lost = streams.output_failure()
    if lost:
        say(f"standard output can't be written ({lost}).")
        shows = any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in sys.argv)
        if not code and (shows or sys.argv[1] not in _WRITES):
            code = 1
    raise SystemExit(code)


def _run() -> None:
    """PyTorch and Lightning, which take seconds to import, come after a word to who waits."""
    if answer(sys.argv[1:]):
        return
    waiting = sys.stderr.isatty()
    if waiting:
        print("Loading PyTorch and Lightning …", end="", file=sys.stderr, flush=True)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or a process that dies makes the others print C++ frames
    # what is imported stays, and looking for garbage in it again and again takes a tenth of the start
    gc.disable()
    # Ctrl-C ends the process here and now: nothing is to be saved yet, and an import may swallow a KeyboardInterrupt
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from encdec.cli.command_line import main as run

    signal.signal(signal.SIGINT, handler)
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extension modules report at exit what they find not freed
    gc.enable()
    if waiting:
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # back to the start of the line, and erase it
    run()


if __name__ == "__main__":
    main()
