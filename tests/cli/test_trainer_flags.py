"""Every setting of Lightning's trainer does what Lightning documents, or is refused with a sentence."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from tests.conftest import ON_CPU, RunCLI, events, refused

FAST = ("fit", "--config=configs/vae.yaml", "--floors.enabled=false", "--images.every_n_epochs=100",
        "--trainer.enable_progress_bar=false")  # fmt: skip
EARLY = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/kl", "--trainer.callbacks.mode=max",
         "--trainer.callbacks.patience=0", "--trainer.callbacks.stopping_threshold=-1.0")  # fmt: skip
"""Ends the training at the first validation."""
RECORD = """\
import json, pathlib, torch
from lightning.pytorch import Callback

class Record(Callback):
    def setup(self, trainer, pl_module, stage):
        self.seen = {"train": [], "val": [], "test": [], "predict": [], "inference": [], "sanity": 0, "loaders": 0}
        self.seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        self.seen["anomaly"] = torch.is_anomaly_enabled()
        self.seen["benchmark"] = torch.backends.cudnn.benchmark
        train_dataloader = trainer.datamodule.train_dataloader
        def counted():
            self.seen["loaders"] += 1
            return train_dataloader()
        trainer.datamodule.train_dataloader = counted
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["train"].append([trainer.current_epoch, batch.index.tolist()])
        self.seen["anomaly"] = torch.is_anomaly_enabled()
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters()])
        self.seen.setdefault("unclipped", []).append(gradients.norm().item())
    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            gradients = torch.cat(gradients)
            self.seen.setdefault("clipped", []).append([gradients.norm().item(), gradients.abs().max().item()])
    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.sanity_checking:
            self.seen["sanity"] += 1
        else:
            self.seen["val"].append([trainer.global_step, batch.index.tolist()])
    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.seen["test"].append(len(batch.x))
        self.seen["inference"].append(torch.is_inference_mode_enabled())
    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.seen["predict"].append(len(batch.x))
    def teardown(self, trainer, pl_module, stage):
        self.seen["step"], self.seen["epoch"] = trainer.global_step, trainer.current_epoch
        pathlib.Path("seen.json").write_text(json.dumps(self.seen))
"""
Seen = dict[str, Any]


@pytest.fixture
def seen(cli: RunCLI, project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train with flags, and what a callback saw: the images of each batch, in which epoch, at which step."""
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "record.py").write_text(RECORD)

    def run(*flags: str, command: tuple[str, ...] = FAST) -> Seen:
        cli(*command, "--trainer.callbacks+=Record", *flags)
        found: Seen = json.loads((project / "seen.json").read_text())
        return found

    return run


def epochs(found: Seen) -> list[list[list[int]]]:
    """The images of each batch, by epoch."""
    numbers = sorted({epoch for epoch, _ in found["train"]})
    return [[indices for epoch, indices in found["train"] if epoch == number] for number in numbers]


def test_overfit_batches_trains_and_validates_on_the_same_batches_in_every_epoch(seen: Any) -> None:
    found = seen("--trainer.overfit_batches=2", "--trainer.max_epochs=3")
    first, second, third = epochs(found)
    assert [len(batch) for batch in first] == [128, 128]
    assert first == second == third
    assert first == [list(range(128)), list(range(128, 256))], "not shuffled"
    validations = [indices for _, indices in found["val"]]
    assert validations[:2] == validations[2:4] == validations[4:] == [list(range(128)), list(range(128, 144))]


def test_overfit_batches_learns_its_batch(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config=configs/ae.yaml", "--trainer.overfit_batches=1", "--trainer.max_epochs=300",
        "--trainer.enable_progress_bar=false", "--trainer.check_val_every_n_epoch=300",
        "--data.batch_size=8")  # fmt: skip
    points = events("lightning_logs/ae/version_0").Scalars("train/mse")
    assert points[-1].value < 0.001, "eight images are learned by heart"


def test_overfit_batches_takes_a_share_of_both_splits(seen: Any) -> None:
    found = seen("--trainer.overfit_batches=0.5", "--trainer.max_epochs=2")
    assert [len(epoch) for epoch in epochs(found)] == [5, 5]
    assert [step for step, _ in found["val"]] == [5, 10]


def test_overfit_batches_goes_on_with_the_same_batches(seen: Any) -> None:
    first = seen("--trainer.overfit_batches=2", "--trainer.max_epochs=1", "--resume")
    second = seen("--trainer.overfit_batches=2", "--trainer.max_epochs=3", "--resume")
    assert epochs(second) == epochs(first) * 2
    assert second["step"] == 6


WORKS: dict[str, tuple[tuple[str, ...], Any]] = {
    "limit_train_batches": (("--trainer.limit_train_batches=3", "--trainer.max_epochs=2"),
                            lambda found: [len(epoch) for epoch in epochs(found)] == [3, 3]),
    "limit_train_batches, a share": (("--trainer.limit_train_batches=0.5", "--trainer.max_epochs=1"),
                                     lambda found: len(found["train"]) == 5),
    "limit_val_batches": (("--trainer.limit_val_batches=1", "--trainer.max_epochs=1", "--data.val_fraction=0.9"),
                          lambda found: len(found["val"]) == 1),
    "limit_val_batches, none": (("--trainer.limit_val_batches=0", "--trainer.max_epochs=1"),
                                lambda found: found["val"] == []),
    "fast_dev_run": (("--trainer.fast_dev_run=2",),
                     lambda found: (found["step"], len(found["val"])) == (2, 1)
                     and not Path("lightning_logs").exists()),
    "max_epochs": (("--trainer.max_epochs=2",), lambda found: (found["step"], len(epochs(found))) == (22, 2)),
    "max_steps": (("--trainer.max_steps=13",), lambda found: found["step"] == 13),
    "min_epochs": (("--trainer.max_epochs=4", "--trainer.min_epochs=3", *EARLY), lambda found: found["step"] == 33),
    "min_steps": (("--trainer.max_epochs=4", "--trainer.min_steps=20", *EARLY), lambda found: found["step"] == 20),
    "max_time": (("--trainer.max_time=00:00:00:01", "--trainer.max_epochs=-1"), lambda found: found["step"] > 11),
    "max_time by units": (("--trainer.max_time={milliseconds: 500}", "--trainer.max_epochs=-1"),
                          lambda found: found["step"] > 0),
    "val_check_interval, batches": (("--trainer.val_check_interval=4", "--trainer.max_epochs=1"),
                                    lambda found: [step for step, _ in found["val"]] == [4, 8]),
    "val_check_interval, a share": (("--trainer.val_check_interval=0.5", "--trainer.max_epochs=1"),
                                    lambda found: [step for step, _ in found["val"]] == [5, 10]),
    "val_check_interval, all": (("--trainer.val_check_interval=1.0", "--trainer.max_epochs=1"),
                                lambda found: [step for step, _ in found["val"]] == [11]),
    "val_check_interval, a time": (("--trainer.val_check_interval={milliseconds: 1}", "--trainer.max_epochs=1"),
                                   lambda found: len(found["val"]) > 2),
    "val_check_interval, across epochs": (
        ("--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null", "--trainer.max_epochs=3"),
        lambda found: [step for step, _ in found["val"]] == [15, 30]),
    "check_val_every_n_epoch": (("--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=4"),
                                lambda found: [step for step, _ in found["val"]] == [22, 44]),
    "num_sanity_val_steps": (("--trainer.num_sanity_val_steps=1", "--trainer.max_epochs=1"),
                             lambda found: (found["sanity"], len(found["val"])) == (1, 1)),
    "num_sanity_val_steps, all": (("--trainer.num_sanity_val_steps=-1", "--trainer.max_epochs=1",
                                   "--data.val_fraction=0.9"), lambda found: found["sanity"] == 2),
    "accumulate_grad_batches": (("--trainer.accumulate_grad_batches=4", "--trainer.max_epochs=2"),
                                lambda found: (found["step"], len(found["train"])) == (6, 22)),
    "gradient_clip_val": (("--trainer.gradient_clip_val=0.01", "--trainer.max_epochs=1"),
                          lambda found: min(found["unclipped"]) > 0.02
                          and all(norm == pytest.approx(0.01, rel=1e-3) for norm, _ in found["clipped"])),
    "gradient_clip_algorithm": (("--trainer.gradient_clip_val=0.001", "--trainer.gradient_clip_algorithm=value",
                                 "--trainer.max_epochs=1"),
                                lambda found: all(largest == pytest.approx(0.001) for _, largest in found["clipped"])),
    "deterministic": (("--trainer.deterministic=true", "--trainer.max_steps=1"), lambda found: found["deterministic"]),
    "benchmark": (("--trainer.benchmark=true", "--trainer.max_steps=1"), lambda found: found["benchmark"]),
    "detect_anomaly": (("--trainer.detect_anomaly=true", "--trainer.max_steps=1"), lambda found: found["anomaly"]),
    "reload_dataloaders_every_n_epochs": (
        ("--trainer.reload_dataloaders_every_n_epochs=1", "--trainer.max_epochs=3"),
        lambda found: found["loaders"] == 3 and len({str(epoch) for epoch in epochs(found)}) == 3),
    "sync_batchnorm": (("--trainer.sync_batchnorm=true", "--trainer.max_steps=1"), lambda found: found["step"] == 1),
    "precision": (("--trainer.precision=bf16-mixed", "--trainer.max_steps=2"), lambda found: found["step"] == 2),
    "strategy": (("--trainer.strategy=auto", "--trainer.max_steps=2"), lambda found: found["step"] == 2),
    "num_nodes": (("--trainer.num_nodes=1", "--trainer.max_steps=2"), lambda found: found["step"] == 2),
    "plugins": (("--trainer.plugins=LightningEnvironment", "--trainer.max_steps=2"), lambda found: found["step"] == 2),
    "enable_checkpointing": (("--trainer.enable_checkpointing=false", "--trainer.max_steps=2"),
                             lambda found: not list(Path("lightning_logs").rglob("*.ckpt"))),
    "logger": (("--trainer.logger=false", "--trainer.max_steps=2"),
               lambda found: not list(Path("lightning_logs").rglob("events*"))),
    "default_root_dir": (("--trainer.default_root_dir=there", "--trainer.max_steps=2"),
                         lambda found: Path("there/lightning_logs/vae/version_0/checkpoints/last.ckpt").is_file()),
    "callbacks": (("--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:00:10", "--trainer.max_steps=2"),
                  lambda found: found["step"] == 2),
}  # fmt: skip


@pytest.fixture
def _torch_as_before() -> Any:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.filterwarnings("ignore:.*Anomaly Detection")
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.usefixtures("_torch_as_before")
def test_a_setting_of_the_trainer_does_what_lightning_documents(name: str, seen: Any) -> None:
    flags, holds = WORKS[name]
    found = seen(*flags)
    assert holds(found), {key: value for key, value in found.items() if key != "train"}


def test_loaders_that_are_made_anew_give_the_same_batches(seen: Any) -> None:
    flags = ("--trainer.max_epochs=3", "--trainer.limit_train_batches=4")
    anew = seen(*flags, "--trainer.reload_dataloaders_every_n_epochs=1")
    assert anew["train"] == seen(*flags)["train"]


def test_log_every_n_steps(cli: RunCLI) -> None:
    cli(*FAST, "--trainer.log_every_n_steps=4", "--trainer.max_epochs=1")
    assert [point.step for point in events("lightning_logs/vae/version_0").Scalars("train/loss")] == [4, 8, 11]


def test_enable_model_summary(cli: RunCLI, capfd: pytest.CaptureFixture[str]) -> None:
    cli(*FAST, "--trainer.enable_model_summary=true", "--trainer.max_steps=2")
    assert "MLPDecoder" in capfd.readouterr().out


@pytest.mark.parametrize("profiler", ["SimpleProfiler", "AdvancedProfiler"])
def test_a_profiler_measures(profiler: str, cli: RunCLI, project: Path) -> None:
    cli(*FAST, f"--trainer.profiler={{class_path: {profiler}, init_args: {{dirpath: profile, filename: report}}}}",
        "--trainer.max_steps=2")  # fmt: skip
    assert "training_step" in (project / "profile" / "fit-report.txt").read_text()


def test_evaluations_are_limited(seen: Any) -> None:
    seen("--trainer.max_steps=2")
    checkpoint = "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt"
    commands = {"test": "test", "predict": "predict"}
    for command, key in commands.items():
        parts = ["--evaluation.parts=[]"] if command == "test" else ["--predictions.output_dir=out"]
        found = seen("--data.batch_size=8", *parts, f"--trainer.limit_{command}_batches=2",
                     command=(command, "--config=configs/vae.yaml", checkpoint))  # fmt: skip
        assert len(found[key]) == 2


@pytest.mark.parametrize("mode", [True, False])
def test_inference_mode(mode: bool, seen: Any) -> None:
    seen("--trainer.max_steps=2")
    found = seen("--evaluation.parts=[]", f"--trainer.inference_mode={str(mode).lower()}",
                 command=("test", "--config=configs/vae.yaml",
                          "--ckpt_path=lightning_logs/vae/version_0/checkpoints/last.ckpt"))  # fmt: skip
    assert found["inference"] == [mode]


@pytest.mark.parametrize("enabled", [True, False])
def test_hyper_parameters_are_logged_to_a_logger_of_the_users(enabled: bool, cli: RunCLI, project: Path) -> None:
    cli(*FAST, "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=curves", "--trainer.max_steps=2",
        f"--trainer.enable_autolog_hparams={str(enabled).lower()}")  # fmt: skip
    files = list((project / "curves").rglob("hparams.yaml"))
    saved = yaml.safe_load(files[0].read_text()) if files else {}
    assert ("model" in (saved or {})) == enabled
    if enabled:
        assert saved["model"]["init_args"]["beta"] == 1.0
    assert not list((project / "lightning_logs").rglob("hparams.yaml")), "the run's config.yaml holds them"


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "accelerator": (("accelerator=abc",), "invalid accelerator name"),
    "an accelerator without its package": (("accelerator=tpu",), "torch_xla"),
    "strategy": (("strategy=abc",), "invalid strategy name"),
    "a strategy that forks": (("strategy={class_path: DDPStrategy, init_args: {start_method: spawn}}",), "take ddp"),
    "a strategy that splits the model": (("strategy=fsdp",), "take auto or ddp"),
    "a strategy class that splits the model": (("strategy=FSDPStrategy",), "take auto or ddp"),
    "devices": (("devices=0",), "trainer.devices is 0, but it must be at least 1, or auto"),
    "devices that are none": (("devices=abc",), "`devices`"),
    "num_nodes": (("num_nodes=0",), "`num_nodes` must be a positive integer"),
    "precision": (("precision=8",), "trainer.precision: '8' is not valid"),
    "logger": (("logger=Nope",), "there is no class 'Nope'; known are CSVLogger"),
    "a logger without its package": (("logger=WandbLogger",), "WandbLogger: Requirement 'wandb"),
    "another logger without its package": (("logger=MLFlowLogger",), "pip install -U 'mlflow"),
    "one of two loggers without its package": (
        ("logger=[{class_path: CSVLogger, init_args: {save_dir: x}}, CometLogger]",), "CometLogger: Require"),
    "callbacks": (("callbacks=EarlyStopin",), "did you mean EarlyStopping?"),
    "a callback's constructor": (("callbacks+=EarlyStopping", "callbacks.monitor=val/loss", "callbacks.mode=abc"),
                                 "EarlyStopping: `mode` can be min, max"),
    "a callback that accumulates": (
        ("callbacks=[{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}]",),
        "set trainer.accumulate_grad_batches"),
    "another callback's constructor": (("callbacks+=ModelCheckpoint", "callbacks.save_top_k=-3"),
                                       "ModelCheckpoint: Invalid value for save_top_k=-3"),
    "fast_dev_run": (("fast_dev_run=-1",), "fast_dev_run=-1"),
    "max_epochs": (("max_epochs=-2",), "trainer.max_epochs is -2, but it must be at least -1"),
    "no epochs": (("max_epochs=0",), "trainer.max_epochs is 0"),
    "min_epochs": (("min_epochs=80",), "trainer.min_epochs is 80, but trainer.max_epochs is 60"),
    "max_steps": (("max_steps=-2",), "trainer.max_steps is -2"),
    "no steps": (("max_steps=0",), "trainer.max_steps is 0"),
    "min_steps": (("min_steps=-1",), "trainer.min_steps is -1"),
    "max_time": (("max_time=soon",), "trainer.max_time is 'soon', but it must be a time DD:HH:MM:SS"),
    "no time": (("max_time=00:00:00:00",), "more than 0"),
    "units of time": (("max_time={second: 3}",), "trainer.max_time is {'second': 3}"),
    "limit_train_batches": (("limit_train_batches=-1",), "limit_train_batches"),
    "limit_val_batches": (("limit_val_batches=1.5",), "limit_val_batches"),
    "limit_test_batches": (("limit_test_batches=-1",), "limit_test_batches"),
    "limit_predict_batches": (("limit_predict_batches=-1",), "limit_predict_batches"),
    "overfit_batches": (("overfit_batches=-1",), "trainer.overfit_batches is -1"),
    "overfit_batches and a limit": (("overfit_batches=1", "limit_val_batches=1"), "both say how many batches"),
    "val_check_interval": (("val_check_interval=0",), "trainer.val_check_interval is 0"),
    "val_check_interval below 0": (("val_check_interval=-1",), "trainer.val_check_interval is -1"),
    "val_check_interval above 1": (("val_check_interval=1.5",), "trainer.val_check_interval is 1.5"),
    "val_check_interval, no share": (("val_check_interval=0.0",), "trainer.val_check_interval is 0.0"),
    "val_check_interval, no number": (("val_check_interval=.nan",), "trainer.val_check_interval is nan"),
    "val_check_interval, no time": (("val_check_interval={seconds: 0}",), "more than 0"),
    "val_check_interval, text": (("val_check_interval=often",), "DD:HH:MM:SS"),
    "check_val_every_n_epoch": (("check_val_every_n_epoch=0",), "trainer.check_val_every_n_epoch is 0"),
    "num_sanity_val_steps": (("num_sanity_val_steps=-2",), "trainer.num_sanity_val_steps is -2"),
    "log_every_n_steps": (("log_every_n_steps=0",), "trainer.log_every_n_steps is 0"),
    "enable_checkpointing": (("enable_checkpointing=maybe",), "expected bool or null"),
    "enable_checkpointing and a callback": (("enable_checkpointing=false", "callbacks+=ModelCheckpoint"),
                                            "found `ModelCheckpoint` in callbacks"),
    "enable_progress_bar": (("enable_progress_bar=maybe",), "expected bool or null"),
    "enable_model_summary": (("enable_model_summary=maybe",), "expected bool or null"),
    "accumulate_grad_batches": (("accumulate_grad_batches=0",), "trainer.accumulate_grad_batches is 0"),
    "gradient_clip_val": (("gradient_clip_val=-1",), "trainer.gradient_clip_val is -1"),
    "gradient_clip_algorithm": (("gradient_clip_algorithm=abc", "gradient_clip_val=1"), "['value', 'norm']"),
    "gradient_clip_algorithm alone": (("gradient_clip_algorithm=value",), "only with trainer.gradient_clip_val"),
    "deterministic": (("deterministic=maybe",), "'maybe' is not valid"),
    "benchmark": (("benchmark=maybe",), "'maybe' is not valid"),
    "inference_mode": (("inference_mode=maybe",), "'maybe' is not valid"),
    "use_distributed_sampler": (("use_distributed_sampler=false",), "trainer.use_distributed_sampler is false, but"),
    "profiler": (("profiler=abc",), "one of simple, advanced, pytorch"),
    "a profiler without its package": (("profiler=xla",), "torch_xla"),
    "detect_anomaly": (("detect_anomaly=maybe",), "'maybe' is not valid"),
    "barebones": (("barebones=true",), "trainer.barebones is true, but"),
    "plugins": (("plugins=abc",), "trainer.plugins: there is no class 'abc'"),
    "plugins that write checkpoints": (("plugins=AsyncCheckpointIO",), "AsyncCheckpointIO can't write"),
    "sync_batchnorm": (("sync_batchnorm=maybe",), "'maybe' is not valid"),
    "reload_dataloaders_every_n_epochs": (("reload_dataloaders_every_n_epochs=-1",), "must be at least 0"),
    "enable_autolog_hparams": (("enable_autolog_hparams=maybe",), "'maybe' is not valid"),
    "model_registry": (("model_registry=abc",), "trainer.model_registry is 'abc', but"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_can_not_be_is_refused(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, expected = REFUSED[name]
    assert expected in refused(capsys, "fit", "--config=configs/vae.yaml", *(f"--trainer.{flag}" for flag in flags))
    assert not (project / "lightning_logs").exists()


LATE: dict[str, tuple[tuple[str, ...], str]] = {
    "no batch of many": (("limit_train_batches=0.01",), "0.01 * 11 < 1"),
    "more batches than there are": (("val_check_interval=12",), "less than or equal to the number of the training"),
    "a metric that is not measured": (("callbacks+=EarlyStopping", "callbacks.monitor=val/nope"), "`val/nope`"),
    "a monitor without a logger": (("callbacks+=LearningRateMonitor", "logger=false"), "has no logger"),
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_what_shows_only_when_the_data_are_there_is_a_wrong_call_too(
    name: str, cli: RunCLI, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, expected = LATE[name]
    assert expected in refused(capsys, *FAST, *(f"--trainer.{flag}" for flag in flags), *ON_CPU)


def test_every_setting_of_the_trainer_is_tried() -> None:
    """Of each parameter there is a value that works, or all are refused; and one that is refused, if there can be."""
    elsewhere = {
        "accelerator", "devices",  # of the fixture `cli`
        "log_every_n_steps", "profiler", "enable_model_summary", "enable_progress_bar", "enable_autolog_hparams",
        "limit_test_batches", "limit_predict_batches", "overfit_batches", "inference_mode",
    }  # fmt: skip
    never = {"use_distributed_sampler", "barebones", "model_registry"}
    no_wrong_values = {"default_root_dir"}
    parameters = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    works = {name.partition(",")[0].partition(" by")[0] for name in WORKS} | elsewhere
    assert parameters == works | never
    assert parameters - no_wrong_values == set(REFUSED) & parameters
