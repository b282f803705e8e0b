"""`python -m encdec configs`: the configs that come with encdec."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from encdec import shipped
from encdec.cli.commands import COMMANDS
from encdec.files import expanded, written_whole
from encdec.messages import fail
from encdec.types import UserError

HELP = f"""\
usage: encdec configs [NAME [TO]]

{COMMANDS["configs"]}

  NAME  Of a config in the list, such as vae.yaml.
  TO    A file or a folder, by default the working directory.

A config needs no copy to be used: encdec fit --config vae.yaml, encdec study quick.yaml. A file of the working
directory, or of its folder configs, wins over the one of the same name that comes with encdec.

examples:
  encdec configs
  encdec configs vae.yaml mine.yaml
  encdec fit --config mine.yaml"""
_GROUPS = {
    "": "paradigms: encdec fit --config vae.yaml",
    "cifar10": "paradigms with residual networks: encdec fit --config cifar10/vae.yaml",
    "data": "data sets: encdec fit --config vae.yaml --config data/mnist.yaml",
    "cluster": "hardware: encdec fit --config vae.yaml --config cluster/multi_gpu.yaml",
    "reproduce": "the original experiments: encdec fit --config reproduce/mnist_vae.yaml",
    "study": "studies: encdec study quick.yaml",
}
"""The heading of each folder of configs."""


def main(args: Sequence[str]) -> None:
    """List the configs, or copy one and print where it is.

    Args:
        args: what follows `encdec configs`.

    Raises:
        SystemExit: with code 0 after the help; with 2 for a wrong call and 1 where the copy can't be written, after one
            sentence on stderr.
    """
    if not {"-h", "--help"}.isdisjoint(args):
        print(HELP)
        raise SystemExit(0)
    for arg in args:
        if arg.startswith("-"):
            fail(f"configs has no option {arg}: it takes a name and a place to copy to.", 2)
    if len(args) > 2:
        fail(f"configs takes a name and a place to copy to, but {len(args)} words follow it.", 2)
    try:
        if args:
            print(_copy(*args).as_posix())
        else:
            _list()
    except UserError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(f"{error.filename or 'the copy'} can't be written: {error.strerror or error}.", 1)


def _list() -> None:
    found = shipped.configs()
    if not found:
        raise UserError("The configs of this installation of encdec are missing: install it again.")
    width = max(map(len, found)) + 2
    heading = None
    for name, path in found.items():
        part = name.rpartition("/")[0]
        if part != heading:
            print(f"{'' if heading is None else chr(10)}{_GROUPS.get(part, part)}")
            heading = part
        line = f"  {name:<{width}}{shipped.first_sentence(path)}"
        if sys.stdout.isatty():  # elsewhere each has one line
            columns = max(shutil.get_terminal_size().columns, width + 30)
            line = textwrap.fill(
                line, columns, subsequent_indent=" " * (width + 2), break_long_words=False, break_on_hyphens=False
            )
        print(line)


def _copy(name: str, to: str = ".") -> Path:
    """Where the copy is.

    Raises:
        UserError: there is no such config, or another file in that place.
    """
    source = shipped.config(name, shipped.STUDIES if name not in shipped.configs() else "")
    if source is None:
        raise UserError(
            f"No config {name!r} comes with encdec{shipped.meant(name)}; `encdec configs` lists those that do.", 2
        )
    target = Path(expanded(to))
    target = target / source.name if target.is_dir() or to.endswith(("/", "\\")) else target
    content = source.read_bytes()
    if target.exists() and target.read_bytes() != content:
        raise UserError(f"{target.as_posix()} is there already, and differs: give another place to copy to.", 2)
    with written_whole(target) as file:
        file.write(content)
    return target
