"""The command line: LightningCLI with paradigms, data sets and plugins, and errors that are sentences."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from encdec import checkpoints, errors, loops, plugins, quiet
from encdec.callbacks import (
    BestAndLast,
    Dashboard,
    Evaluate,
    Header,
    ImageGrids,
    LogFloors,
    Progress,
    Throughput,
    WritePredictions,
    report_fit,
    report_interrupt,
    report_nothing_written,
    report_split,
)
from encdec.commands import COMMANDS, answer, fail, say
from encdec.data import DataModule
from encdec.networks import Decoder, Encoder
from encdec.paradigms import Paradigm
from encdec.types import UserError

RUNS = "lightning_logs"
"""The folder of all runs."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one sentence, instead of fifty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2."""
        cause = _user_error(ex)
        keys = [action.dest for action in self._actions if action.dest != "help"]
        for action in self._actions:  # the keys of the commands, where this is the parser above them
            if isinstance(action.choices, dict):
                keys += [a.dest for sub in action.choices.values() for a in getattr(sub, "_actions", [])]
        fail(str(cause) if cause else errors.sentence(message, keys), 2)


class _SaveConfig(SaveConfigCallback):
    """Saves the config of a training; `test` and the like run in the same folder and leave it as it is."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class CLI(LightningCLI):
    """`fit`, `validate`, `test` or `predict`, of any paradigm on any data set.

    Args:
        command: the one that is called; parsers of the others are not built.
        kwargs: of `LightningCLI`.
    """

    def __init__(self, command: str, **kwargs: Any) -> None:
        self._command = command
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, the configurable callbacks, and the links between data, seed and model."""
        parser.add_argument("--name", type=str | None, default=None, help=f"Folder of the run below {RUNS}.")
        parser.add_argument(
            "--compile",
            type=Literal["default", "reduce-overhead", "max-autotune"] | None,
            default=None,
            help="Compile the networks with torch.compile in this mode; reduce-overhead means CUDA graphs on a GPU.",
        )
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.add_lightning_class_args(ImageGrids, "images")
        parser.add_lightning_class_args(LogFloors, "floors")
        parser.add_lightning_class_args(Evaluate, "evaluation")
        parser.add_lightning_class_args(WritePredictions, "predictions")
        parser.set_defaults({"data": "Digits"})
        for name in ("image_shape", "num_classes", "num_train"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        for target in ("model", "data"):
            parser.link_arguments("seed_everything", f"{target}.init_args.seed", compute_fn=_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without Lightning's warning about `args` beside sys.argv."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's settings silently replace those of the config and of the flags
        pass

    def before_instantiate_classes(self) -> None:
        """Refuse a call that can't mean anything, before any work is done."""
        command, path = self.config.subcommand, self._checkpoint
        if path is None:
            if command != "fit":
                raise UserError(f"{command} needs a trained model: give --ckpt_path FILE.", 2)
            return
        self._contents = checkpoints.read_checkpoint(path)
        held = checkpoints.paradigm_class(self._contents, path).__name__
        wanted = self.config[command].model.class_path.rpartition(".")[2]
        if held != wanted:
            raise UserError(
                f"{path} holds a {held}, but the config asks for a {wanted}: give the config it was made with."
            )

    def after_instantiate_classes(self) -> None:
        """Check that the checkpoint fits the model that the config made."""
        if self._checkpoint is not None:
            checkpoints.check_fits(self.model, self._contents, self._checkpoint)
            del self._contents  # training needs the memory
        mode = self.config[self.config.subcommand].compile
        if mode is not None:
            for network in self.model.children():
                if isinstance(network, Encoder | Decoder):
                    network.compile(mode=mode)  # in place, so that the names in checkpoints stay

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the trainer, with our logger and callbacks where the config does not say otherwise."""
        config = self.config_init[self.config.subcommand].trainer
        if config.logger is None or config.logger is True:
            kwargs["logger"] = self._make_logger(config.default_root_dir)
        callbacks = [Header(), Throughput()]
        if config.logger is not False:
            callbacks += [Dashboard(), LearningRateMonitor("epoch")]
        if config.enable_progress_bar is not False:
            callbacks.append(Progress())
        kwargs["callbacks"] = [*_as_list(config.callbacks), *callbacks]
        try:
            return super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:  # the trainer's words for a setting that it can't take
            raise UserError(f"trainer: {' '.join(str(error).split())}", 2) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        if config["enable_checkpointing"] is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, BestAndLast)]
        trainer = super()._instantiate_trainer(config, callbacks)
        loops.install(trainer)
        return trainer

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command, and the arguments of the trainer's method that are not options, because we set them."""
        ours = {"weights_only", "verbose", "return_predictions"}
        return {self._command: LightningCLI.subcommands()[self._command] | ours}

    # weights_only: reading a checkpoint never runs code

    def fit(self, **kwargs: Any) -> None:
        """Train, and print what came out."""
        self._until_interrupted(self.trainer.fit, report_interrupt, kwargs)
        report_fit(self.trainer)

    def validate(self, **kwargs: Any) -> None:
        """Measure on the validation split."""
        self._until_interrupted(self.trainer.validate, report_nothing_written, kwargs | {"verbose": False})
        report_split(self.trainer, "val")

    def test(self, **kwargs: Any) -> None:
        """Measure on the test split, in the way that is the same for all paradigms."""
        evaluation: Evaluate = self._get(self.config_init, "evaluation")
        evaluation.config = yaml.safe_load(self._parser("test").dump(self.config.test, skip_none=False))
        self._until_interrupted(self.trainer.test, report_nothing_written, kwargs | {"verbose": False})
        if evaluation.figures is None:
            report_split(self.trainer, "test")

    def predict(self, **kwargs: Any) -> None:
        """Write samples, reconstructions and interpolations."""
        self._until_interrupted(self.trainer.predict, report_nothing_written, kwargs | {"return_predictions": False})

    def _until_interrupted(
        self, run: Callable[..., Any], report: Callable[[pl.Trainer], None], kwargs: dict[str, Any]
    ) -> None:
        try:
            run(weights_only=True, **kwargs)
        except SystemExit as stop:  # Lightning's answer to Ctrl-C and to SIGTERM
            report(self.trainer)
            raise SystemExit(143 if isinstance(stop, SIGTERMException) else 130) from None

    def _make_logger(self, root: str | None) -> TensorBoardLogger:
        path = self._checkpoint
        if path is not None and path.parent.name == "checkpoints":  # go on in the folder of that run
            run = path.resolve().parent.parent
            # relative, as it was when the run began, so that the checkpoint's paths are still those of the run
            folder = os.path.relpath(run.parent.parent)
            return TensorBoardLogger(folder, run.parent.name, run.name, default_hp_metric=False)
        name = self.config[self.config.subcommand].name or type(self.model).__name__.lower()
        return TensorBoardLogger(Path(root or ".", RUNS), name, default_hp_metric=False)

    @property
    def _checkpoint(self) -> Path | None:
        path = self.config[self.config.subcommand].ckpt_path
        return None if path is None else Path(path)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line: `python -m encdec`, the console script `encdec`, tests and notebooks.

    Args:
        args: what follows `encdec`; taken from sys.argv if None.

    Raises:
        SystemExit: with code 2 for a wrong call and 1 for a fault at run time, after one sentence on stderr.
            ENCDEC_DEBUG=1 shows the traceback instead.
    """
    args = sys.argv[1:] if args is None else list(args)
    if answer(args):
        return
    quiet.install()
    # dark pixels drive gradients, and Adam's squares of them, below 1e-38, where a CPU takes many times as long
    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        # Lightning makes torch open NVIDIA's library at each step of an optimizer, in vain: 0.1 ms
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    try:
        for problem in plugins.load():
            say(problem)
        CLI(
            args[0],
            model_class=Paradigm,
            datamodule_class=DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 10,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            parser_class=Parser,
            parser_kwargs={
                "prog": "encdec",
                "allow_abbrev": False,
                args[0]: {"allow_abbrev": False, "description": COMMANDS[args[0]]},
            },
            auto_configure_optimizers=False,
            args=_with_config_of_checkpoint(_check_configs(args)),
        )
    except Exception as error:
        if os.environ.get("ENCDEC_DEBUG") == "1":
            raise
        user_error = _user_error(error)
        if user_error is not None:
            fail(str(user_error), user_error.exit_code)
        if isinstance(error, MisconfigurationException | OSError):
            fail(" ".join(str(error).split()), 1)
        raise


def _flag_values(args: list[str], *flags: str) -> list[str]:
    """The values of a flag, given as `--flag value` or `--flag=value`."""
    values = []
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = arg.partition("=")
        if flag in flags:
            values.append(value if equals else following)
    return values


def _check_configs(args: list[str]) -> list[str]:
    """`args`, if every config among them is YAML; the parser would not name the file that is not."""
    for config in _flag_values(args, "--config", "-c"):
        if Path(config).is_file():
            try:
                yaml.safe_load(Path(config).read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{config} is not a YAML file: {' '.join(str(error).split())}.", 2) from error
    return args


def _with_config_of_checkpoint(args: list[str]) -> list[str]:
    """`--ckpt_path RUN/checkpoints/best.ckpt` alone means: with the config that this run saved."""
    if _flag_values(args, "--config", "-c", "--model"):
        return args
    for value in _flag_values(args, "--ckpt_path"):
        checkpoints.require_file(value)
        config = Path(value).parent.parent / "config.yaml"
        if config.is_file():
            return [args[0], "--config", str(config), *args[1:]]
    return args


def _seed(seed: bool | int) -> int:
    if isinstance(seed, bool):
        raise UserError(f"seed_everything is {seed}, but a run is named by its seed: give a number.", 2)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything is {seed}, but a seed must lie between 0 and {2**32 - 1}.", 2)
    return seed


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _user_error(error: BaseException | None) -> UserError | None:
    """The first error meant for users in a chain of causes; the parser wraps what a constructor raises."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None
