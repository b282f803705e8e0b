"""The command line."""

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; see `encdec.cli.command_line.main`, which takes seconds to import."""
    from encdec.cli.command_line import main as run

    run(args)
