"""Objects of Lightning and others that a config asks for by their class, and what their constructors refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from encdec.types import UserError

_CLASSES: tuple[type[Any], ...] = (
    Callback, Logger, Profiler, Strategy, Accelerator, Precision, ClusterEnvironment, LayerSync,
)  # fmt: skip


class Constructors:
    """Makes a parser say what a constructor refuses: a wrong value, or that a package is missing."""

    def __init__(self) -> None:
        self._refusal: UserError | None = None

    def add_to(self, parser: LightningArgumentParser) -> None:
        """Let a parser make its objects here."""
        for cls in _CLASSES:
            parser.add_instantiator(self._make, cls)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what was refused, where the parser hides it behind other types that a value could have had.

        Raises:
            UserError: a constructor refused its settings.
        """
        try:
            yield
        except (TypeError, ValueError) as error:
            if self._refusal is None:
                raise
            raise self._refusal from error

    def _make(self, cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return cls(*args, **kwargs)
        except Exception as error:  # each refuses in a way of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            self._refusal = error if isinstance(error, UserError) else UserError(f"{cls.__name__}: {reason}", 2)
            raise self._refusal from error
