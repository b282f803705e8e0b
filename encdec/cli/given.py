"""What a call sets, read loosely, for a help that must not fail where the parser would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from encdec import shipped
from encdec.cli import run_config
from encdec.cli.settings import TAKEN, nested
from encdec.files import expanded
from encdec.messages import say
from encdec.runs import folders
from encdec.types import UserError


@dataclass
class Given:
    """The classes and settings of a call.

    Attributes:
        classes: the names of the model's and the data's class.
        values: settings by their names as flags, without dashes.
    """

    classes: dict[str, str] = field(default_factory=lambda: {"data": "Digits"})
    values: dict[str, Any] = field(default_factory=dict)

    def take(self, key: str, value: Any) -> None:
        """Take a setting, or all of a class or a group of them; later ones win."""
        if isinstance(value, Mapping):
            if "class_path" in value:
                self.take(key, value["class_path"])
            for name, inner in {**value, **(value.get("init_args") or {})}.items():
                if name not in ("class_path", "init_args"):
                    self.take(f"{key}.{name}" if key else str(name), inner)
        elif key in TAKEN and isinstance(value, str):
            self.classes[key] = value
        else:
            self.values[key] = value


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether a call asks for the help of its command."""
    return not {"-h", "--help"}.isdisjoint(args)


def of(args: Sequence[str]) -> Given:
    """What the arguments of a command name, in flags, in configs and in the config of a run.

    A config that can't be read is named on stderr.
    """
    found = Given()
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        text = value if equals else following * (not following.startswith("-"))
        if flag in ("--config", "-c"):
            _take_config(found, shipped.find(expanded(text)))
        elif flag in ("--ckpt_path", "--resume"):
            path = Path(expanded(text))
            run = path if flag == "--resume" else path.parent.parent
            if text and (run / folders.CONFIG).is_file():
                _take_run(found, run / folders.CONFIG)
        elif flag.startswith("--") and text:
            found.take(flag[2:].removesuffix(".class_path").replace(".init_args.", "."), _value(text))
    return found


def _take_config(found: Given, path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no settings by their names")
        found.take("", nested({str(key): value for key, value in content.items()}))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        hint = "" if path.exists() else shipped.meant(str(path))
        say(f"{path} can't be read ({reason}){hint}; the help is without it.")


def _take_run(found: Given, path: Path) -> None:
    try:
        found.take("", yaml.safe_load(run_config.checked(path)))
    except UserError as error:
        say(str(error))


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
