"""`python -m encdec export`."""

from collections.abc import Sequence

from encdec.cli.commands import COMMANDS
from encdec.cli.compare import Parser
from encdec.runs.export import ENDING, export_checkpoint


def main(args: Sequence[str]) -> None:
    """Export a checkpoint and print where it is.

    Args:
        args: what follows `encdec export`.

    Raises:
        UserError: see `encdec.export`.
        SystemExit: with code 2 for a wrong call.
    """
    parser = Parser(prog="encdec export", description=COMMANDS["export"], allow_abbrev=False)
    parser.add_argument("checkpoint", help="a checkpoint of a run")
    parser.add_argument("file", nargs="?", help=f"where to (default: beside the checkpoint, with {ENDING})")
    options = parser.parse_args(args)
    print(export_checkpoint(options.checkpoint, options.file))
