"""Settings in a config or a flag that would have no effect, or stand in the wrong place, are refused by name."""

from pathlib import Path

import pytest

from encdec.cli import main
from tests.conftest import refused

VAE = ["fit", "--config=configs/vae.yaml"]
SEED, DATA = "is taken from seed_everything: set seed_everything instead", "is taken from the data: leave it out"
CONFIGS: dict[str, tuple[str, str]] = {
    # what the program sets itself
    "a model's seed": ("model: {init_args: {seed: 3}}", f"model.seed {SEED}"),
    "a seed beside the class": ("model: {seed: 3}", f"model.seed {SEED}"),
    "a seed by its path": ("model.init_args.seed: 3", f"model.seed {SEED}"),
    "a seed by half its path": ("model: {init_args.seed: 3}", f"model.seed {SEED}"),
    "a seed in dict_kwargs": ("model: {class_path: VAE, dict_kwargs: {seed: 3}}", f"model.seed {SEED}"),
    "a seed that is null": ("model: {init_args: {seed: null}}", f"model.seed {SEED}"),
    "the data's seed": ("data: {class_path: Digits, init_args: {seed: 3}}", f"data.seed {SEED}"),
    "image_shape": ("model: {init_args: {image_shape: [1, 8, 8]}}", f"model.image_shape {DATA}"),
    "num_classes": ("model: {init_args: {num_classes: 10}}", f"model.num_classes {DATA}"),
    "num_train": ("model: {num_train: 10}", f"model.num_train {DATA}"),
    # groups and classes that are none
    "a group that is null": ("trainer: null", "trainer must hold settings by their names, but it is null"),
    "a group that is empty": ("trainer:", "trainer must hold settings by their names, but it is null"),
    "a group that is a list": ("trainer: [max_epochs, 3]", "trainer must hold settings by their names"),
    "a group that is a number": ("checkpoint: 3", "checkpoint must hold settings by their names, but it is 3"),
    "a group that is text": ("images: every_n_epochs", "images must hold settings by their names"),
    "a group that is false": ("floors: false", "floors must hold settings by their names, but it is False"),
    "a model that is null": ("model: null", "model must be the name of a class, such as VAE"),
    "data that are null": ("data:", "data must be the name of a class, such as Digits"),
    "a model that is a list": ("model: [VAE]", "model must be the name of a class"),
    "a model that is a number": ("model: 3", "model must be the name of a class"),
    "a model that is empty": ("model: {}", "model must be the name of a class"),
    "an optimizer that is empty": ("model: {init_args: {optimizer: []}}", "model.optimizer must be the name of"),
    "a scheduler that is empty": ("model: {init_args: {lr_scheduler: {}}}", "model.lr_scheduler must be the name"),
    "a class_path that is a number": ("model: {class_path: 3}", "model.class_path must be the name of a class"),
    "a class_path that is null": ("model: {class_path: null}", "model.class_path must be the name of a class"),
    "init_args that are a list": ("model: {class_path: VAE, init_args: [beta, 3]}", "model.init_args must hold"),
    "init_args that are empty": ("model: {class_path: VAE, init_args: }", "model.init_args must hold settings"),
    "init_args of a network": ("model: {init_args: {encoder: {class_path: MLPEncoder, init_args: 3}}}",
                               "model.encoder.init_args must hold settings"),
    # in the wrong place
    "a misspelt init_args": ("model: {class_path: VAE, init_arg: {beta: 3}}", "model has no key 'init_arg'; did you"),
    "a misspelt class_path": ("model: {clas_path: VAE}", "model has no key 'clas_path'; did you mean class_path?"),
    "a class for class_path": ("model: {class: VAE}", "model has no key 'class'; did you mean class_path?"),
    "a misspelt init_args of a network": ("model: {init_args: {encoder: {class_path: MLPEncoder, initargs: {}}}}",
                                          "model.encoder has no key 'initargs'; did you mean init_args?"),
    "a setting beside init_args": ("model: {class_path: VAE, beta: 3}", "put it in, as model.init_args.beta"),
    "a network's setting beside": ("model: {init_args: {encoder: {class_path: MLPEncoder, hidden: [3]}}}",
                                   "put it in, as model.encoder.init_args.hidden"),
    "a callback's setting beside": ("trainer: {callbacks: [{class_path: EarlyStopping, monitor: val/loss}]}",
                                    "trainer.callbacks[0].monitor stands beside init_args"),
    "a class as a key": ("model: {VAE: {beta: 3}}", "model has no key 'VAE': name a class as class_path"),
    "a callback as a key": ("trainer: {callbacks: {EarlyStopping: {monitor: x}}}", "trainer.callbacks has no key"),
    "a key that is no name": ("3: 4", "keys must be names, but one is 3"),
    "a schedule of objects": ("model: {init_args: {lr_scheduler: {class_path: torch.optim.lr_scheduler.SequentialLR}}}",
                              "encdec.training.schedules.Phases"),
}  # fmt: skip
UNKNOWN: dict[str, tuple[str, str]] = {
    "a setting of a model": ("model: {class_path: VAE, init_args: {betta: 3}}", "VAE has no setting 'betta'; did"),
    "a setting of a network": ("model: {init_args: {encoder: {class_path: MLPEncoder, init_args: {hiden: [3]}}}}",
                               "did you mean hidden?"),
    "a setting of the trainer": ("trainer: {max_epoch: 3}", "no setting 'max_epoch'; did you mean max_epochs?"),
    "a setting of a group": ("images: {num_image: 3}", "images has no setting 'num_image'; did you mean num_images?"),
    "a group": ("trianer: {max_epochs: 3}", "A config has no key 'trianer'; did you mean trainer?"),
    "a model's key at the top": ("optimizer: []", "A config has no key 'optimizer'"),
}  # fmt: skip
NULLS: dict[str, tuple[str, str]] = {
    "a weight": ("model: {init_args: {beta: null}}", "model.beta is null, but VAE needs a value"),
    "a network": ("model: {init_args: {encoder: null}}", "model.encoder is null, but VAE needs a value"),
    "a network's setting": ("model: {init_args: {encoder: {class_path: MLPEncoder, init_args: {hidden: null}}}}",
                            "model.encoder.hidden is null, but MLPEncoder needs a value"),
    "a rate": ("model: {init_args: {optimizer: {class_path: Adam, init_args: {lr: null}}}}",
               "model.optimizer.lr is null, but Adam needs a value"),
    "a batch size": ("data: {class_path: Digits, init_args: {batch_size: null}}", "data.batch_size is null, but"),
    "a number of steps": ("trainer: {max_steps: null}", "trainer.max_steps is null, but Trainer needs a value"),
    "a callback's setting": ("trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: a, patience: }}]}",
                             "trainer.callbacks[0].patience is null, but EarlyStopping needs a value"),
    "a number of pictures": ("images: {num_images: null}", "images.num_images is null, but ImageGrids needs a value"),
    "a switch": ("floors: {enabled: null}", "floors.enabled is null, but LogFloors needs a value"),
    "a seed": ("seed_everything: null", "seed_everything is null, but a run is named by its seed"),
}  # fmt: skip
FLAGS: dict[str, tuple[list[str], str]] = {
    "a model's seed": (["--model.seed=3"], f"model.seed {SEED}"),
    "a seed after a space": (["--model.seed", "3"], f"model.seed {SEED}"),
    "a seed by its path": (["--model.init_args.seed=3"], f"model.seed {SEED}"),
    "a seed in dict_kwargs": (["--model.dict_kwargs.seed=3"], f"model.seed {SEED}"),
    "a seed in a text": (["--model={class_path: VAE, init_args: {seed: 3}}"], f"model.seed {SEED}"),
    "the data's seed": (["--data.seed=3"], f"data.seed {SEED}"),
    "the data's seed by its path": (["--data.init_args.seed", "3"], f"data.seed {SEED}"),
    "image_shape": (["--model.image_shape=[1,8,8]"], f"model.image_shape {DATA}"),
    "num_classes": (["--model.num_classes=3"], f"model.num_classes {DATA}"),
    "num_train": (["--model.init_args.num_train=3"], f"model.num_train {DATA}"),
    "a group": (["--trainer=null"], "trainer must hold settings by their names, but it is null"),
    "a group of nothing": (["--images=3"], "images must hold settings by their names"),
    "a model": (["--model", "null"], "model must be the name of a class, such as VAE"),
    "data": (["--data=[]"], "data must be the name of a class, such as Digits"),
    "an optimizer": (["--model.optimizer={}"], "model.optimizer must be the name of a class"),
    "a misspelt path": (["--model.init_arg.beta=3"], "model has no key 'init_arg'; did you mean init_args?"),
    "a misspelt class": (["--model.clas_path=VAE"], "model has no key 'clas_path'; did you mean class_path?"),
    "a setting beside": (["--model.encoder={class_path: MLPEncoder, hidden: [3]}"], "model.encoder.init_args.hidden"),
    "a weight of null": (["--model.beta=null"], "model.beta is null, but VAE needs a value"),
}  # fmt: skip


def refused_without_a_run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    err = refused(capsys, *args)
    assert not Path("lightning_logs").exists()
    return err


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_refused_with_its_name_and_the_key(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = CONFIGS[name]
    (project / "mine.yaml").write_text(text)
    err = refused_without_a_run(capsys, *VAE, "--config=mine.yaml")
    assert err.startswith("encdec: error: mine.yaml: ")
    assert expected in err


@pytest.mark.parametrize("name", [*UNKNOWN, *NULLS])
def test_an_unknown_setting_and_a_null_are_refused(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = (UNKNOWN | NULLS)[name]
    (project / "mine.yaml").write_text(text)
    assert expected in refused_without_a_run(capsys, *VAE, "--config=mine.yaml")


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_refused(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, expected = FLAGS[name]
    assert expected in refused_without_a_run(capsys, *VAE, *flags)


@pytest.mark.parametrize(
    "text",
    [
        "model: {beta: 3}",
        "model.beta: 3",
        "model: {init_args: {beta: 3, lr_scheduler: null}}",
        "model: VAE",
        "data: Digits",
        "trainer: {callbacks: null, max_time: {hours: 1}}",
        "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 2}}]}",
        "model: {init_args: {encoder: ConvEncoder, optimizer: {class_path: SGD, init_args: {lr: 1e-2}}}}",
        "name: null",
    ],
)
def test_what_means_something_is_taken(text: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([*VAE, "--config=mine.yaml", "--print_config"])
    assert stop.value.code in (0, None), capsys.readouterr().err
    main([*VAE, "--config=mine.yaml", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--trainer.devices=1"])


def test_a_runs_own_config_holds_nothing_that_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*VAE, "--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.devices=1"])
    main(["fit", "--config=lightning_logs/vae/version_0/config.yaml", "--trainer.fast_dev_run=1"])
    assert "encdec: error" not in capsys.readouterr().err
    assert [run.name for run in Path("lightning_logs/vae").iterdir()] == ["version_0"], (
        "a moment of a run keeps nothing"
    )
