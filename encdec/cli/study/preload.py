"""Imports what a job needs, for processes that are forked after it."""

from encdec.cli import process

with process.importing():
    import encdec.cli.command_line
    import encdec.study.work  # noqa: F401
