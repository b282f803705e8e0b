"""What a call says, looked at before the parser or the trainer stumbles over it."""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser

from encdec import shipped
from encdec.cli import given, run_config, settings
from encdec.evaluation.samplers import Sampler
from encdec.files import expanded
from encdec.messages import no_yaml, say
from encdec.runs import folders, moved, trust, weights
from encdec.runs.checkpoints import no_checkpoint, require_file
from encdec.types import UserError

_CONFIG = ("--config", "-c")
_CLASS, _NAME = re.compile(r"--(model|data)(\.\w+)*"), re.compile(r"[A-Za-z_][\w.]*")
register_type(torch.device)  # a setting of callbacks that average weights, which a run's config saves


def prepared(args: list[str]) -> list[str]:
    """What follows `encdec`, with the config of the run that it speaks of, if it gives none; a call for help as it is.

    Raises:
        UserError: a config is not YAML with settings by their names, or a checkpoint is not there.
    """
    if given.asks_for_help(args):
        return args
    args = _found_configs([flag + equals + at_home(value) for flag, equals, value in map(_parts, args)])
    settings.check_flags(args)
    args = _classes_first(_with_weights(args))
    named = {key for key in ("model", "data") if _flag_values(args, f"--{key}", f"--{key}.class_path")}
    for config in _flag_values(args, *_CONFIG):
        if Path(config).is_file():  # if not, the parser says so
            named |= _check_config(config)
    return _with_config_of_run(args, named)


def add_weights(parser: LightningArgumentParser, command: str) -> None:
    """Add `--weights`, and what a run saves beside it: they are of `fit`, but all commands read the config of a run."""
    helps = (
        "Begin with the weights in a checkpoint or an export, and with nothing else of its training: the optimizer, "
        "its rate, the schedule and the data may be others.",
        "SHA-256 that the file of --weights must have; a run saves it.",
    )
    for name, text in zip((weights.FILE, weights.DIGEST), helps, strict=True):
        parser.add_argument(
            f"--{name}",
            type=str | None,
            default=None,
            metavar="FILE" if name == weights.FILE else "HEX",
            help=text if command == "fit" else argparse.SUPPRESS,
        )


def add_sampler(parser: LightningArgumentParser) -> None:
    """Add `--sampler`."""
    parser.add_argument(
        "--sampler",
        type=Sampler,
        default="model",
        help="What latents of samples are drawn from: as the model does by itself, from its prior, or from a density "
        "that is fitted to the latents of the training images: a Gaussian, a mixture of 10 Gaussians, or a "
        "nearest-neighbor mapping of noise.",
    )


def at_home(value: Any) -> Any:
    """Settings in which each text that is `~` or begins with `~/`, at any depth, is a path in the home folder."""
    if isinstance(value, str):
        return expanded(value) if value == "~" or value.startswith("~/") else value
    if isinstance(value, dict | Namespace):
        for key, inner in list(value.items()):
            value[key] = at_home(inner)
    return [at_home(inner) for inner in value] if isinstance(value, list) else value


def checked_seed(seed: bool | int | None) -> int:
    """The seed of a run.

    Raises:
        UserError: it is none, or out of range.
    """
    if seed is None or isinstance(seed, bool):
        shown = "null" if seed is None else str(seed).lower()
        raise UserError(f"seed_everything is {shown}, but a run is named by its seed: give a number.", 2)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything is {seed}, but a seed must lie between 0 and {2**32 - 1}.", 2)
    return seed


def _parts(arg: str) -> tuple[str, str, str]:
    """`--flag=` of `--flag=value`, or nothing, and the value."""
    flag, equals, value = arg.partition("=")
    return (flag, equals, value) if equals and flag.startswith("-") else ("", "", arg)


def _found_configs(args: list[str]) -> list[str]:
    """The arguments, with the place of each config that comes with encdec in place of its name."""
    found = []
    for before, arg in zip(["", *args], args, strict=False):
        flag, equals, value = _parts(arg)
        if flag in _CONFIG or before in _CONFIG:
            if not value:
                raise UserError("--config is empty, but it must be the name of a file, such as vae.yaml.", 2)
            path = shipped.find(value)
            if path.is_file() and path != Path(value):
                say(f"{value} is {path.as_posix()}, as there is no file of that name here.")
                arg = f"{flag}{equals}{path}"
        found.append(arg)
    return found


def _classes_first(args: list[str]) -> list[str]:
    """The arguments, with `--model NAME` before the first `--model.setting`, and so for every class.

    The parser takes the settings that come before for those of the class before, and drops what the new one lacks. What
    a config has set before or after is another class, so that nothing is moved beyond it.
    """
    found: list[str] = []
    for place, arg in enumerate(args):
        flag, equals, value = _parts(arg)
        key = (flag if equals else arg).rstrip("=")
        before = args[place - 1] if place else ""
        if _CLASS.fullmatch(before) and not equals and not arg.startswith("-"):
            key, value, taken = before, arg, 2
        elif _CLASS.fullmatch(key) and equals:
            taken = 1
        else:
            found.append(arg)
            continue
        found.append(arg)
        begin = max((i + 1 for i, one in enumerate(found) if one.partition("=")[0] in _CONFIG), default=0)
        settings_of = [i for i, one in enumerate(found[:-taken]) if i >= begin and one.startswith(f"{key}.")]
        if settings_of and _NAME.fullmatch(value):
            moved = found[-taken:]
            del found[-taken:]
            found[settings_of[0] : settings_of[0]] = moved
    return found


def _flag_values(args: list[str], *flags: str) -> list[str]:
    """The values of a flag, given as `--flag value` or `--flag=value`."""
    values = []
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag in flags:
            values.append(value if equals else following)
    return values


def _with_weights(args: list[str]) -> list[str]:
    """A call that names weights, without what a config says that other weights are.

    Raises:
        UserError: the call can't take any.
    """
    file, digest = (_flag_values(args, f"--{name}") for name in (weights.FILE, weights.DIGEST))
    named = [value for value in (*file, *digest) if value != "null"]
    if args[0] != "fit":
        if named:
            raise UserError(f"--weights is what fit begins with; {args[0]} takes a checkpoint by --ckpt_path.", 2)
        return args
    if named and _flag_values(args, "--ckpt_path"):
        raise weights.beside_a_checkpoint()
    return [*args, f"--{weights.DIGEST}=null"] if file and not digest else args


def _check_config(config: str) -> set[str]:
    """Check that a config holds settings; the parser would not name the file that does not.

    Returns:
        The keys for which it names a class.
    """
    try:
        text = Path(config).read_text(encoding="utf-8")
        node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(no_yaml(config, error), 2) from error
    except RecursionError as error:
        raise UserError(f"{config} is nested too deep for a config.", 2) from error
    if not isinstance(content, dict):
        raise UserError(f"{config} must hold settings by their names, such as `model: VAE`, but it does not.", 2)
    try:
        trust.refuse_duplicates(node, config, 2)
        settings.check_config(content, config)
    except RecursionError as error:
        raise UserError(f"{config} has settings that hold themselves, by an alias such as &a [*a].", 2) from error
    names = {key for key, value in content.items() if not isinstance(value, dict) or "class_path" in value}
    return {key.removesuffix(".class_path") for key in names}


def _with_config_of_run(args: list[str], named: set[str]) -> list[str]:
    """`--ckpt_path RUN/checkpoints/best.ckpt` or `--resume RUN` without a model means: with the config of that run.

    A checkpoint that was taken out of its run brings its model to what measures it; the user names the data.

    Args:
        args: what follows `encdec`.
        named: the keys for which the user names a class.

    Raises:
        UserError: the call names no run or checkpoint that there is, or no data for a checkpoint without a run.
    """
    if "model" in named:
        return args
    flags = ("--ckpt_path", f"--{weights.FILE}") if args[0] == "fit" else ("--ckpt_path",)
    files = [value for value in _flag_values(args, *flags) if value != "null"]
    runs = [Path(value) for value in _flag_values(args, "--resume") if not value.startswith("-")]
    for file in files:
        require_file(file)
        runs.append(Path(file).parent.parent)
    for folder in runs:
        if (folder / folders.CONFIG).is_file():
            config = ["--config", run_config.checked(folder / folders.CONFIG)]
            if args[0] == "fit" and files:  # the new run does not begin with what that one began with
                config += [f"--{weights.FILE}=null", f"--{weights.DIGEST}=null"]
            return [args[0], *config, *args[1:]]
    if files and args[0] != "fit":
        return [args[0], "--config", moved.model_as_config(files[-1], "data" in named), *args[1:]]
    if files:
        raise UserError(
            f"{files[-1]} lies in no run, so its training's settings are not known: give them by --config FILE, or "
            "--model NAME and --data NAME.",
            2,
        )
    if args[0] != "fit":
        given = args[1] if len(args) > 1 and not args[1].startswith("-") else ""
        raise no_checkpoint(args[0], given)
    if runs:
        raise folders.no_run(str(runs[0]))
    return args
