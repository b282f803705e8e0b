"""The commands, and what is said about them without PyTorch and Lightning, which take seconds to import."""

import sys
from collections.abc import Sequence

from encdec import __version__
from encdec.messages import fail, suggestion

COMMANDS = {
    "fit": "Train a paradigm on a data set, or go on with a run.",
    "validate": "Measure a checkpoint on the validation split.",
    "test": "Evaluate a checkpoint on the test split, alike for all paradigms.",
    "predict": "Write samples, reconstructions and interpolations to files.",
    "export": "Write the weights of a checkpoint as safetensors, for other programs.",
    "compare": "Put evaluations of runs side by side, as means over seeds.",
    "study": "Run a file's paradigms, data sets and seeds, and report on them.",
    "configs": "List the configs that come with encdec, or copy one.",
}
"""What each command does, in one line."""

_LIST = "\n".join(f"  {command:<10}{line}" for command, line in COMMANDS.items())
HELP = f"""\
usage: encdec COMMAND [options]    (or: python -m encdec COMMAND [options])

Trains generative models with and without encoders, and measures them alike.

commands:
{_LIST}

options:
  -h, --help        Show this page; after a command, all of its options.
  --version         Show the version.

options of fit, validate, test and predict, among others:
  --config FILE     Settings, such as vae.yaml; later ones win.
                    `encdec configs` lists those that come with encdec.
  --model NAME      A paradigm, such as VAE; its settings: --model.beta 4.
  --data NAME       A data set, such as FashionMNIST.
  --ckpt_path FILE  A checkpoint to measure, or for fit to begin a new run from.
  --resume [RUN]    For fit: go on with a run from its newest checkpoint.
  --sampler NAME    For test and predict: what latents of samples are drawn from:
                    model, prior, gaussian, mixture or neighbors.
  --print_config    Show every setting and its value, as YAML.

examples:
  encdec fit --config vae.yaml --data FashionMNIST --model.beta 4
  encdec fit --model VAE --help
  encdec test --ckpt_path lightning_logs/vae/version_0/checkpoints/best.ckpt
  encdec compare lightning_logs"""


def words(args: object) -> list[str]:
    """The words of a call that Python code makes.

    Raises:
        SystemExit: with code 2, after one sentence on stderr, if these are no list of text.
    """
    if isinstance(args, str) or not isinstance(args, Sequence):
        found = f"the text {args!r}" if isinstance(args, str) else f"of type {type(args).__name__}"
        fail(
            f"main takes a list of words, such as ['fit', '--config', 'vae.yaml'], but what it is given is {found}.", 2
        )
    for arg in args:
        if not isinstance(arg, str):
            fail(f"main takes a list of words, but one of them is {arg!r}: write it as text, '{arg}'.", 2)
    return list(args)


def answer(args: Sequence[str]) -> bool:
    """Do what needs neither PyTorch nor Lightning: show the help or the version, compare, refuse a wrong command.

    Args:
        args: what follows `encdec`.

    Returns:
        Whether that was all. If not, the first of `args` is a command for `encdec.cli`.

    Raises:
        SystemExit: with code 2, after the help or one sentence on stderr, if there is no such command.
    """
    if not args:
        print(HELP, file=sys.stderr)
        raise SystemExit(2)
    command = args[0]
    if command in ("-h", "--help", "help"):
        print(HELP)
    elif command == "--version":
        print(f"encdec {__version__}")
    elif command == "compare":
        from encdec.cli.compare import main as compare

        compare(args[1:])
    elif command == "study":
        from encdec.cli.study import main as study

        study(args[1:])
    elif command == "configs":
        from encdec.cli.configs_command import main as configs

        configs(args[1:])
    elif command in COMMANDS:
        return False
    elif command.startswith("-"):
        flag = command.partition("=")[0]
        fail(f"{flag} stands before the command: options follow it, as in `python -m encdec fit {flag} …`.", 2)
    else:
        names = ", ".join(COMMANDS)
        fail(f"{command!r} is not a command{suggestion(command, list(COMMANDS))}; the commands are {names}.", 2)
    return True
