"""TensorBoard's files of a run."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from encdec.callbacks.overview import file_writer
from encdec.runs import folders


class RunLogger(TensorBoardLogger):
    """TensorBoard's files in a run's folder."""

    def __init__(self, folder: folders.RunFolder) -> None:
        super().__init__(folder.parent.parent, folder.parent.name, default_hp_metric=False)
        self._folder = folder

    @property
    def version(self) -> str:
        """The folder's name; a new one is made when this is first asked for."""
        return self._folder.path.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Nothing: the run's config.yaml holds them, beside TensorBoard's files."""

    @rank_zero_only
    def save(self) -> None:
        """Write the hyper-parameters, where nothing is in their place yet; a pipe there would be waited for."""
        if not os.path.lexists(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE)):
            super().save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Write all scalars as one event; TensorBoardLogger writes one for each, which takes 0.1 ms."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        file_writer(self.experiment).add_summary(Summary(value=values), step)
