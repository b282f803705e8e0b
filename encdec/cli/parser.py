"""The parser of the commands that train and measure."""

from enum import Enum
from typing import Any, NoReturn

import jsonargparse
import yaml

from encdec import private
from encdec.cli import errors
from encdec.messages import fail

# the default settings of some of Lightning's callbacks are members of an Enum, which a config names by their value
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class Parser(private.PathlessParser):
    """Says what is wrong in one sentence, and opens no file but one that follows `--config`.

    jsonargparse takes the text `m.yaml` or `http://…`, where a class or a group of settings is expected, for the place
    of a config. This parser has no such arguments, for anybody.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._class: type | None = None
        jsonargparse.set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)

    def add_class_arguments(self, class_type: type, nested_key: str | None = None, **kwargs: Any) -> list[str]:
        """See jsonargparse; remembers the class whose settings are all that this parser reads, for the errors."""
        self._class = class_type if nested_key is None else None
        added: list[str] = super().add_class_arguments(class_type, nested_key, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2."""
        cause = errors.user_error(ex)
        fail(str(cause) if cause else errors.sentence(message, private.keys(self), self._class), 2)
