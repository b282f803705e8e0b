"""What a run prints: lines at its start, and a table at its end."""

import math
import textwrap

import lightning.pytorch as pl

from encdec.callbacks.best_and_last import METRICS_KEY, best_and_last
from encdec.callbacks.keep_run import run_folder
from encdec.callbacks.progress_bar import is_narrow
from encdec.callbacks.run_text import run_line, write_verdict
from encdec.callbacks.verdicts import SAMPLES, reference, stands_beside, term, verdicts
from encdec.data import DataModule
from encdec.paradigms import Paradigm
from encdec.runs.checkpoints import read_checkpoint
from encdec.runs.folders import short
from encdec.tables import print_filled, print_table
from encdec.text import printable, word
from encdec.training import schedules
from encdec.training.step import batches_in_epoch, steps_of
from encdec.types import Conditioning

UNITS = {
    "mse": "per pixel",
    "bce": "nats per image",
    "kl": "nats per image",
    "elbo": "nats per image",
    "nll": "nats per image",
    "loss": "per image",
    "explained": "share",
    "sample": "share of the data's variance",
}
"""Unit of each scalar, by the first word of its name."""
_HEADING = 10  # columns of a heading in a narrow terminal
_FEW = 10  # steps of an epoch


class Header(pl.Callback):
    """Says what is trained on what, how many steps that makes, and how the learning rate changes, a line each."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(data, DataModule):
            return
        print_filled(run_line(trainer, pl_module, data))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print how many steps there are, and how the learning rate changes, if it does."""
        if trainer.is_global_zero:
            for line in (*_steps(trainer), *schedules.described(trainer)):
                print_filled(line)


def report_fit(trainer: pl.Trainer) -> None:
    """Print the metrics of the best and the last checkpoint, where they lie, and what to type next."""
    kept = best_and_last(trainer)
    if not trainer.is_global_zero:
        return
    if kept is None or not kept.last_model_path:
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if values:
            _print_metrics(trainer, {f"last (epoch {trainer.current_epoch})": values})
            print_verdicts(trainer, "val", values, trainer.global_step, "last: ")
        _print(f"nothing was saved: {_why_nothing(trainer)}")
        return
    paths = {"best": kept.best_model_path, "last": kept.last_model_path}
    files = {name: short(path) for name, path in paths.items() if path}
    contents = {name: read_checkpoint(path) for name, path in files.items()}
    # a checkpoint at the end of training counts the epoch that would come next
    epochs = {name: min(content["epoch"] + 1, trainer.current_epoch) for name, content in contents.items()}
    columns = {f"{name} (epoch {epochs[name]})": content[METRICS_KEY] for name, content in contents.items()}
    rows = _print_metrics(trainer, columns)
    sentences = []
    for name in ("best", "last"):
        if name in contents and not (name == "last" and epochs.get("best") == epochs["last"]):
            of, measured, step = f"{name}: ", contents[name][METRICS_KEY], contents[name]["global_step"]
            sentences += print_verdicts(trainer, "val", measured, step, of)
    if rows:
        write_verdict(trainer, sentences, rows, contents["last"]["global_step"])
    for name, path in files.items():
        _print(f"{name}: {path}")
    # not trainer.log_dir, which waits for the other processes
    if trainer.logger is not None and trainer.logger.save_dir is not None:
        _print(f"curves and pictures: tensorboard --logdir {word(short(trainer.logger.save_dir))}")
    checkpoint = word(files.get("best", files["last"]))
    _print(f"scores on the test split: python -m encdec test --ckpt_path {checkpoint}")
    _print(f"samples as files: python -m encdec predict --ckpt_path {checkpoint}")


def report_interrupt(trainer: pl.Trainer) -> None:
    """Say what is left of a run that was stopped, and how to go on."""
    if not trainer.is_global_zero:
        return
    run, kept = run_folder(trainer), best_and_last(trainer)  # the checkpoints may be elsewhere
    others = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    if kept is not None and kept.last_model_path and run is not None:
        is_old = kept.saved_step not in (None, trainer.global_step)  # a second signal did not wait
        what = f"holds it up to step {kept.saved_step}" if is_old else "holds it"
        _print(
            f"Stopped; {short(kept.last_model_path)} {what}. Go on: python -m encdec fit --resume {word(short(run))}"
        )
    elif any(others):
        _print(f"Stopped; {short(next(filter(None, others)))} is what was saved.")
    elif kept is None or trainer.fast_dev_run:  # type: ignore[attr-defined]  # not set in __init__
        _print(f"Stopped; nothing was saved: {_why_nothing(trainer)}")
    else:
        _print("Stopped before there was a checkpoint.")


def _why_nothing(trainer: pl.Trainer) -> str:
    if best_and_last(trainer) is None:
        return "trainer.enable_checkpointing is false."
    return "trainer.fast_dev_run is set." if trainer.fast_dev_run else "no step was made."  # type: ignore[attr-defined]


def report_nothing_written(trainer: pl.Trainer) -> None:
    """Say what is left of a measurement that was stopped."""
    written = [path for callback in trainer.callbacks for path in getattr(callback, "written", [])]  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        files = ", ".join(short(path) for path in written)
        _print(f"Interrupted: {f'{files} had been written before' if written else 'nothing was written'}.")


def report_split(trainer: pl.Trainer, stage: str) -> None:
    """Print the means over the images that `validate` or `test` has measured."""
    if trainer.is_global_zero:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        values = {name: value for name, value in values.items() if name.startswith(f"{stage}/")}
        _print_metrics(trainer, {"mean over images": values})
        model = trainer.lightning_module
        print_verdicts(trainer, stage, values, model.loaded_step if isinstance(model, Paradigm) else 0)


def _print_metrics(trainer: pl.Trainer, columns: dict[str, dict[str, float]]) -> list[list[str]]:
    """Print one row for each metric, with its floor; the rows, of which the first is the heading."""
    model = trainer.lightning_module
    names = dict.fromkeys(name for metrics in columns.values() for name in metrics)
    floors = {name: _floor(name, columns, model.conditioning) for name in names} if isinstance(model, Paradigm) else {}
    heading = next((heading for _, heading in filter(None, floors.values())), None)
    with_floors = heading is not None
    if not names:  # nothing was validated
        return []
    headings = [*columns, *[heading or ""] * with_floors]
    if is_narrow():
        headings = [textwrap.fill(heading, _HEADING, break_long_words=False) for heading in headings]
    rows = [["", *headings, "unit"]]
    for name in names:
        if not stands_beside(name):
            floor = floors.get(name)
            numbers = [metrics.get(name) for metrics in columns.values()]
            numbers += [None if floor is None else floor[0]] * with_floors
            rows.append([printable(name), *map(_number, numbers), UNITS.get(term(name), "")])
    print_table(rows, text=(len(rows[0]) - 1, 0))
    return rows


def _floor(
    name: str, columns: dict[str, dict[str, float]], conditioning: Conditioning | None
) -> tuple[float, str] | None:
    """The floor of a scalar and its name, where it is the same in all columns: a resumed run may measure others."""
    found = {reference(name, metrics, conditioning) for metrics in columns.values() if name in metrics}
    one = found.pop() if len(found) == 1 else None
    return one if one is not None and "floor" in one[1] else None


def print_verdicts(
    trainer: pl.Trainer, stage: str, metrics: dict[str, float], step: int, of: str = "", samples: int = SAMPLES
) -> list[str]:
    """Print what the measured values mean, and give it. For the arguments see `verdicts`; `of` begins each sentence."""
    sentences = [f"{of}{sentence}" for sentence in verdicts(trainer, stage, metrics, step, samples)]
    for sentence in sentences:
        print_filled(sentence)
    return sentences


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _print(line: str) -> None:
    print(line, flush=True)  # not through rich, which would break long paths into lines


def _steps(trainer: pl.Trainer) -> list[str]:
    """How many steps an epoch and the run have; and what makes more, where small data make few."""
    steps, data = steps_of(trainer), getattr(trainer, "datamodule", None)
    if steps is None or not isinstance(data, DataModule):
        return []
    batches, at_once = batches_in_epoch(trainer, steps.batches_per_step), trainer.world_size * steps.accumulate
    if not math.isfinite(batches):
        return []
    in_epoch = math.ceil(batches / steps.accumulate)
    length = schedules.RunLength.of(trainer, in_epoch)
    images = min(data.batch_size * at_once, data.num_train)
    line = f"{_count(in_epoch, 'step')} an epoch, of up to {_count(images, 'image')} each"
    if math.isfinite(length.steps):
        line += f"; {_count(length.steps, 'step')} in {_count(length.epochs, 'epoch')}"
    if trainer.global_step:
        line += f", of which {trainer.global_step:,} are made"
    size = data.batch_size
    while size > 1 and data.num_train < _FEW * size * at_once:
        size = 2 ** math.ceil(math.log2(size) - 1)  # the power of 2 below it
    if size == data.batch_size:
        return [f"{line}."]
    more = math.ceil(data.num_train / (size * at_once))
    advice = f"--data.batch_size {size} makes {more:,} an epoch, and --trainer.max_epochs sets how many epochs"
    return [f"{line}. These are few: {advice}."]


def _count(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}{'s' * (number != 1)}"
