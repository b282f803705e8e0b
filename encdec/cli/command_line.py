"""The command line: LightningCLI with paradigms, data sets and plugins, and errors that are sentences."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerFn

from encdec import plugins
from encdec.callbacks import (
    BestAndLast,
    Dashboard,
    Evaluate,
    Header,
    KeepRun,
    ShowAverages,
    best_and_last,
    progress,
    report_fit,
    report_interrupt,
    report_nothing_written,
    report_split,
)
from encdec.cli import (
    arguments,
    beginning,
    endings,
    export_command,
    help_page,
    new_pictures,
    process,
    run_config,
    settings,
    trainer_flags,
)
from encdec.cli.commands import COMMANDS, answer, words
from encdec.cli.constructors import Constructors
from encdec.cli.parser import Parser
from encdec.cli.run_logger import RunLogger
from encdec.data import DataModule
from encdec.data.fingerprints import KEY as DATA_KEY
from encdec.data.fingerprints import PresentData, identity_in
from encdec.evaluation.samplers import check_sampler
from encdec.files import disk_is_full
from encdec.messages import say
from encdec.networks import Decoder, Encoder, Velocity
from encdec.paradigms import Paradigm
from encdec.requeue import requeue
from encdec.runs import checkpoints, folders, history, identity, starts, training_state
from encdec.training import signals
from encdec.training.contract import check_data
from encdec.types import UserError

_GROUPS: dict[str, type] = {"trainer": pl.Trainer, **run_config.CALLBACKS}
"""The class whose settings each group of them holds."""


class CLI(LightningCLI):
    """`fit`, `validate`, `test` or `predict`, of any paradigm on any data set.

    Args:
        command: the one that is called; parsers of the others are not built.
        callbacks: beyond those that its config names.
        kwargs: of `LightningCLI`.
    """

    def __init__(self, command: str, callbacks: Sequence[pl.Callback] = (), **kwargs: Any) -> None:
        self._command, self._callbacks = command, callbacks
        self._differing: list[str] = []
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, the configurable callbacks, and the links between data, seed and model."""
        parser.add_argument("--name", type=str | None, default=None, help=f"Folder of the run below {folders.RUNS}.")
        if self._command == "fit":
            parser.add_argument(
                "--resume",
                type=bool | str,
                nargs="?",
                const=True,
                default=False,
                metavar="RUN",
                help="Go on with a run from its newest checkpoint: with the one in the folder RUN, or else with the "
                "newest of this name, model, data and seed, if there is one.",
            )
        parser.add_argument(
            "--compile",
            type=run_config.CompileMode | None,
            default=None,
            help="Train with networks compiled by torch.compile in this mode; reduce-overhead means CUDA graphs on a "
            "GPU. Other commands leave the networks as they are.",
        )
        if self._command in ("test", "predict"):
            arguments.add_sampler(parser)
        arguments.add_weights(parser, self._command)
        for name, callback in run_config.CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults({"data": "Digits"})
        for name in ("image_shape", "num_classes", "num_train"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        for target in ("model", "data"):
            parser.link_arguments("seed_everything", f"{target}.init_args.seed", compute_fn=arguments.checked_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without Lightning's warning about `args` beside sys.argv; or show the help."""
        help_page.show_if_asked(parser, self._command, args)
        self.config = parser.parse_args(args)
        # Lightning would let the checkpoint's settings silently replace those of the config and of the flags
        self._ckpt_path = self.config[self._command].pop("ckpt_path", None)
        if not any(word.partition("=")[0] == "--name" for word in args):
            self.config[self._command].name = beginning.name_of(self.config[self._command])

    def instantiate_classes(self) -> None:
        """See Lightning; what a constructor refuses is said."""
        constructors = Constructors()
        constructors.add_to(self.parser)
        with constructors.explained():
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        """Refuse a call that can't mean anything, before any work is done; find the run that it goes on with."""
        self.config[self._command]["ckpt_path"] = self._ckpt_path
        config = arguments.at_home(self.config[self.config.subcommand])
        settings.check_values(config, _GROUPS)
        trainer_flags.check(config.trainer)
        if config.name is not None and not folders.is_name(config.name):
            raise UserError(f"name is {config.name!r}, but it must be the name of one folder.", 2)
        self._settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self._command]
        self._resume = resume = self._settings.pop("resume", False)  # these are of a call, not of a run
        self._settings.pop("ckpt_path", None)
        self._sampler = self._settings.pop("sampler", "model")
        if self._command == "fit":
            beginning.pin_weights(self._settings)
        self._start = beginning.find(self._command, config, resume, self._settings)
        self._is_new = self._command == "predict" and new_pictures.take(config, self._start.contents)
        if self._start.checkpoint is not None:
            differing = beginning.check(self._command, self._start, self._settings)
            self._differing = [text for text in differing if not (self._is_new and text.startswith("data."))]
            checkpoints.check_described(self._settings["model"], self._start.contents, self._start.checkpoint)
        self._find_weights()

    def after_instantiate_classes(self) -> None:
        """Check that the checkpoint and the call fit the model that the config made, and say what differs."""
        check_sampler(self.model, self._sampler)
        if self._start.checkpoint is not None:
            path, contents = self._start.checkpoint, self._start.contents
            if self._is_new:
                new_pictures.check(self.model, self._sampler)
            elif self._start.folder.existing is None or self._command != "fit":
                splits = {"fit": ("val", "test"), "validate": ("val",)}.get(self._command, ("test",))
                changed = identity.check_held_out(path, contents, self._data, self._settings, *splits)
                self._differing += changed
                self.datamodule.starts_over = bool(changed)
            checkpoints.check_images(contents, self.model.image_shape, type(self.datamodule).__name__, path)
            checkpoints.check_fits(self.model, contents, path)
            training_state.check(contents, path, self.trainer, self.model, self.datamodule, TrainerFn(self._command))
            if self._differing:
                say(f"{path} was made otherwise: {'; '.join(self._differing)}.")
        if self._weights is not None:
            differing = self._weights.check(self._data, self._settings)
            left_out = self._weights.load(self.model, self._data)
            self._weights.announce(differing, left_out)
        if self._command == "fit":
            # what these refuse is refused before the run has a folder
            self.model.configure_optimizers()
            check_data(self.model, self.datamodule)
            self.datamodule.train_dataloader()
        mode = self.config[self.config.subcommand].compile
        if mode is not None and self._command == "fit":
            for network in self.model.children():
                if isinstance(network, Encoder | Decoder | Velocity):
                    network.compile(mode=mode)  # in place, so that the names in checkpoints stay
            self.model.is_compiled = True

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the trainer, with our logger and callbacks where the config does not say otherwise."""
        self._find_data()
        config = self.config_init[self.config.subcommand].trainer
        if config.logger is None or config.logger is True:
            kwargs["logger"] = RunLogger(self._start.folder)
        self._signals = signals.Signals(_save)
        callbacks: list[pl.Callback] = [self._signals, Header(), ShowAverages(), *self._callbacks]
        if self._command == "fit":
            as_yaml = yaml.safe_dump(self._settings, sort_keys=False, allow_unicode=True)
            before = identity_in(self._start.contents, self._start.checkpoint)
            happened = history.extended(self._start.contents, self._start.saved, self._settings)
            if self._weights is not None:
                before, happened = self._weights.data, self._weights.history()
            self._keep_run = KeepRun(
                self._start.folder,
                self._start.checkpoint,
                self._start.step,
                as_yaml,
                {
                    DATA_KEY: self._data.identity.as_dict(before),
                    history.KEY: happened,
                    history.TRAINER_KEY: history.of_trainer(self._settings),
                },
            )
            callbacks.insert(0, self._keep_run)
        if config.logger is not False:
            callbacks.append(Dashboard())
        own = _as_list(config.callbacks)
        trainer_flags.check_callbacks(own)
        if config.enable_progress_bar is not False and not any(isinstance(callback, ProgressBar) for callback in own):
            callbacks.append(progress())
        kwargs["callbacks"] = [*callbacks, *own]
        if config.strategy == "ddp" and len(self.model.players()) > 1:  # in turns, not all parameters have a gradient
            kwargs["strategy"] = "ddp_find_unused_parameters_true"
        kwargs["plugins"] = trainer_flags.environment(_as_list(config.plugins))
        self.trainer_class = _trainer
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError, ImportError, RuntimeError, MisconfigurationException) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}", 2) from error
        if type(trainer.strategy.checkpoint_io) is not TorchCheckpointIO:
            raise UserError(
                f"{type(trainer.strategy.checkpoint_io).__name__} can't write a run's checkpoints, which are written "
                "whole or not at all: leave it out.",
                2,
            )
        trainer.strategy.checkpoint_io = checkpoints.CheckpointIO()
        return trainer

    def _find_data(self) -> None:
        """Look at the images; go on with the run that has them."""
        self._data, start = PresentData(self.datamodule), self._start
        if start.folder.existing is not None and self._command == "fit":
            config = self.config[self.config.subcommand]
            named = isinstance(self._resume, str)
            self._start = folders.with_data(start, self._data, self._settings, named, config.checkpoint.dirpath)
            self._find_weights()
            if self._start.checkpoint not in (None, start.checkpoint):
                self._differing = beginning.check(self._command, self._start, self._settings)

    def _find_weights(self) -> None:
        """The weights that a training begins with, which goes on from no checkpoint."""
        self._weights = beginning.weights(self._start, self._settings) if self._command == "fit" else None

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command, and the arguments of the trainer's method that are not options, because we set them."""
        ours = {"weights_only", "verbose", "return_predictions"}
        return {self._command: LightningCLI.subcommands()[self._command] | ours}

    def fit(self, **kwargs: Any) -> None:
        """Train, and print what came out."""
        start, trainer = self._start, self.trainer
        if starts.is_finished(start, trainer, self._settings):
            return
        if start.folder.existing is not None:
            history.check_epoch(folders.short(start.folder.existing), start.contents, start.saved or {}, self._settings)
            if folders.rank() == 0:
                self._keep_run.lock()  # now: the logger opens a file there before any callback is asked
            folders.announce(start, self._settings)
        if start.checkpoint is None:
            starts.refuse_strays(trainer)
        start.contents = {}  # training needs the memory
        self._until_interrupted(trainer.fit, report_interrupt, kwargs)
        report_fit(trainer)

    def validate(self, **kwargs: Any) -> None:
        """Measure on the validation split."""
        self._until_interrupted(self.trainer.validate, report_nothing_written, kwargs | {"verbose": False})
        report_split(self.trainer, "val")

    def test(self, **kwargs: Any) -> None:
        """Measure on the test split, in the way that is the same for all paradigms."""
        evaluation: Evaluate = self.config_init[self._command].evaluation
        evaluation.sampler = self._sampler
        evaluation.config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self._command]
        self._until_interrupted(self.trainer.test, report_nothing_written, kwargs | {"verbose": False})
        if evaluation.metrics is None:
            report_split(self.trainer, "test")

    def predict(self, **kwargs: Any) -> None:
        """Write samples, reconstructions and interpolations."""
        self.config_init[self._command].predictions.sampler = self._sampler
        self._until_interrupted(self.trainer.predict, report_nothing_written, kwargs | {"return_predictions": False})

    def _until_interrupted(
        self, run: Callable[..., Any], report: Callable[[pl.Trainer], None], kwargs: dict[str, Any]
    ) -> None:
        if self._start.checkpoint is not None:  # a path even where it is `best` or `registry:x`, Lightning's words
            kwargs["ckpt_path"] = os.path.join(os.curdir, self._start.checkpoint)
        try:
            with signals.ending_together(self.trainer):
                run(weights_only=True, **kwargs)  # reading a checkpoint never runs code
        except signals.Stopped as stop:
            report(self.trainer)
            if stop.signal == signals.REQUEUE and self.trainer.is_global_zero:
                requeue()
            raise
        except SystemExit as stop:  # Lightning's answer to a KeyboardInterrupt, where no handler of ours could be set
            if isinstance(stop.__context__, KeyboardInterrupt):
                report(self.trainer)
                raise signals.Stopped(signal.SIGINT) from None
            raise
        except OSError as error:
            if error.filename is None and disk_is_full(error):  # TensorBoard's writer, for example, names no file
                error.filename = f"a file in {self.trainer.log_dir}"
            raise
        except (ValueError, RuntimeError) as error:
            # what only shows when the batches are counted, or after a validation
            if "val_check_interval" in str(error) or "conditioned on metric" in str(error):
                raise UserError(" ".join(str(error).split()), 2) from error
            raise


def main(args: Sequence[str] | None = None, callbacks: Sequence[pl.Callback] = ()) -> None:
    """Run the command line: `python -m encdec`, the console script `encdec`, tests and notebooks.

    Args:
        args: what follows `encdec`; taken from sys.argv if None.
        callbacks: which watch what `fit`, `validate`, `test` or `predict` do, beyond those that the config names.

    Raises:
        SystemExit: with code 2 for a wrong call and 1 for a fault at run time, after one sentence on stderr
            (ENCDEC_DEBUG=1 shows the traceback instead); with 128 + its number for a signal.
    """
    args = sys.argv[1:] if args is None else words(args)
    if answer(args):
        return
    try:
        with process.unchanged():
            _run(args, callbacks)
    except KeyboardInterrupt:  # before or after the training
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("ENCDEC_DEBUG") == "1":
            raise
        endings.end(error)


def _run(args: list[str], callbacks: Sequence[pl.Callback]) -> None:
    for problem in plugins.load():
        say(problem)
    if args[0] == "export":
        export_command.main(args[1:])
        return
    CLI(
        args[0],
        callbacks,
        model_class=Paradigm,
        datamodule_class=DataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,  # KeepRun saves it
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
        args=arguments.prepared(args),
    )


def _trainer(**settings: Any) -> pl.Trainer:
    """The trainer; one that writes no checkpoints has no callback that does."""
    if settings["enable_checkpointing"] is False:
        settings["callbacks"] = [one for one in settings["callbacks"] if not isinstance(one, BestAndLast)]
    return pl.Trainer(**settings)


def _save(trainer: pl.Trainer) -> None:
    """Write the checkpoint that a stopped run goes on from."""
    if (kept := best_and_last(trainer)) is not None:
        kept.save_now(trainer)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
