"""`python -m encdec`, and the console script `encdec`."""

import sys

from encdec.cli import process, streams
from encdec.cli.commands import answer
from encdec.messages import say

_WRITES = ("fit", "test", "predict", "export", "study")
"""Commands whose results are files: they have done their work even if what they print is lost."""
_RUNS = ("fit", "validate", "test", "predict")
"""Commands of a trainer."""


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
    if sys.argv[1] in _RUNS:
        process.hold_back_requeue()
    waiting = sys.stderr.isatty()
    if waiting:
        print("Loading PyTorch and Lightning …", end="", file=sys.stderr, flush=True)
    with process.importing():
        from encdec.cli.command_line import main as run
    process.prepare()
    if waiting:
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # back to the start of the line, and erase it
    run()


if __name__ == "__main__":
    main()
