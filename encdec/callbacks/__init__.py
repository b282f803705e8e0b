"""What a run shows and keeps."""

from encdec.callbacks.averaging import ShowAverages
from encdec.callbacks.best_and_last import BestAndLast, best_and_last
from encdec.callbacks.dashboard import Dashboard
from encdec.callbacks.evaluate import Evaluate
from encdec.callbacks.image_grids import ImageGrids
from encdec.callbacks.keep_run import KeepRun
from encdec.callbacks.log_floors import LogFloors
from encdec.callbacks.predictions import WritePredictions
from encdec.callbacks.progress_bar import progress
from encdec.callbacks.terminal import (
    Header,
    report_fit,
    report_interrupt,
    report_nothing_written,
    report_split,
)

__all__ = [
    "BestAndLast",
    "Dashboard",
    "Evaluate",
    "Header",
    "ImageGrids",
    "KeepRun",
    "LogFloors",
    "ShowAverages",
    "WritePredictions",
    "best_and_last",
    "progress",
    "report_fit",
    "report_interrupt",
    "report_nothing_written",
    "report_split",
]
