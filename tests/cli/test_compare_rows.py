"""`compare`: what is averaged and what is told apart."""

from pathlib import Path

import pytest

from encdec.cli import compare
from encdec.cli.compare.grouping import summary

from .reports import Capture, change, report_of, table_of, write


def test_other_models_are_other_rows_and_never_seeds(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0, 0.05, beta=0.5), 0)
    write(tmp_path, report_of("vae", 0, 0.11, beta=4), 1)
    rows, _ = table_of(tmp_path, capsys)
    assert rows == {"vae beta=0.5": ["1", "0.05"], "vae beta=4": ["1", "0.11"]}


SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01, "momentum": 0.9}}
DIFFERENT = {
    "a model's setting": (change("config", "model", "init_args", "beta", to=4), ["vae beta=1", "vae beta=4"]),
    "a setting inside": (
        change("config", "model", "init_args", "optimizer", "init_args", "lr", to=0.1),
        ["vae optimizer.lr=0.001", "vae optimizer.lr=0.1"],
    ),
    "a class": (
        change("config", "model", "init_args", "optimizer", to=SGD),
        ["vae optimizer=Adam", "vae optimizer=SGD"],
    ),
    "a new setting": (change("config", "model", "init_args", "prior", to="mixture"), ["vae", "vae prior=mixture"]),
    "epochs": (change("config", "trainer", "max_epochs", to=20), ["vae max_epochs=10", "vae max_epochs=20"]),
    "steps": (change("step", to=55), ["vae step=110", "vae step=55"]),
    "clipping": (change("config", "trainer", "gradient_clip_val", to=1.0), ["vae", "vae gradient_clip_val=1"]),
    "processes": (change("config", "trainer", "devices", to="2"), ["vae devices=1", "vae devices=2"]),
    "precision": (change("precision", to="bf16-true"), ["vae precision=32-true", "vae precision=bf16-true"]),
    "batch": (
        change("config", "data", "init_args", "batch_size", to=32),
        ["vae data.batch_size=128", "vae data.batch_size=32"],
    ),
    "images": (
        change("data", "fingerprint", to="8a29f0"),
        ["vae fingerprint=6052a675", "vae fingerprint=8a29f0"],
    ),
    "evaluation": (
        change("settings", "num_images", to=200),
        ["vae evaluation.num_images=100", "vae evaluation.num_images=200"],
    ),
    "paradigm": (change("paradigm", to="AE"), ["vae paradigm=AE", "vae paradigm=VAE"]),
    "the name": (change("name", to="ae"), ["ae", "vae"]),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_defines_a_run_splits_rows_and_is_named(name: str, tmp_path: Path, capsys: Capture) -> None:
    apply, labels = DIFFERENT[name]
    other = report_of("vae", 1, 0.2)
    apply(other)
    write(tmp_path, report_of("vae", 0, 0.1), 0)
    write(tmp_path, other, 1)
    rows, _ = table_of(tmp_path, capsys)
    assert sorted(rows) == labels
    assert {cells[0] for cells in rows.values()} == {"1"}


SAME = {
    "where data lie": change("config", "data", "init_args", "data_dir", to="/mnt/data"),
    "where pictures lie": change("config", "data", "init_args", "path", to="/mnt/data"),
    "workers": change("config", "data", "init_args", "num_workers", to=8),
    "where runs lie": change("config", "trainer", "default_root_dir", to="elsewhere"),
    "logging": change("config", "trainer", "log_every_n_steps", to=1),
    "a bar": change("config", "trainer", "enable_progress_bar", to=False),
    "pictures": change("config", "images", "num_images", to=3),
    "a cache": change("settings", "cache_dir", to="elsewhere"),
    "a number's spelling": change("config", "model", "init_args", "beta", to=1),
    "the version's number": change("version", to="version_7"),
}


def test_a_data_module_says_which_settings_have_no_effect(tmp_path: Path, capsys: Capture) -> None:
    for seed in range(2):
        report = report_of("vae", seed, 0.1 + seed)
        report["data"]["without_effect"] = ["threads"]
        report["config"]["data"]["init_args"]["threads"] = seed
        write(tmp_path, report, seed)
    assert [*table_of(tmp_path, capsys)[0]] == ["vae"]


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_result_splits_no_rows(name: str, tmp_path: Path, capsys: Capture) -> None:
    other = report_of("vae", 1, 0.2)
    SAME[name](other)
    write(tmp_path, report_of("vae", 0, 0.1), 0)
    write(tmp_path, other, 1)
    assert table_of(tmp_path, capsys)[0] == {"vae": ["2", "0.15 ± 0.07"]}


def test_a_repeated_seed_is_counted_once_and_said(tmp_path: Path, capsys: Capture) -> None:
    for version, (seed, mse) in enumerate([(0, 0.1), (0, 0.3), (1, 0.4)]):
        write(tmp_path, report_of("vae", seed, mse), version)
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["2 (3 runs)", "0.3 ± 0.1"]}, "of 0.2, the mean of the first seed, and 0.4"
    assert "± in the table: the standard deviation over seeds." in below
    assert "vae: 2 runs have the seed 0 and the same settings, but other results: their mean counts once, as no " \
           "spread over seeds." in below  # fmt: skip


def test_two_runs_of_one_seed_are_no_spread(tmp_path: Path, capsys: Capture) -> None:
    for version in range(2):
        write(tmp_path, report_of("vae", 0, 0.1), version)
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["1 (2 runs)", "0.1"]}
    assert "vae: 2 runs have the seed 0 and the same settings and results, so they count once." in below


def test_one_file_by_two_paths_is_one_run(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, report_of("vae"))
    (tmp_path / "link").symlink_to(tmp_path / "run")
    rows, below = table_of(tmp_path, capsys, str(path), str(tmp_path / "link"), str(tmp_path))
    assert rows == {"vae": ["1", "0.1"]}
    assert not [line for line in below if "seed" in line]


def test_a_metric_that_some_seeds_lack_says_of_how_many_it_is(tmp_path: Path, capsys: Capture) -> None:
    first = report_of("vae", 0)
    first["metrics"]["kl"] = {"value": 2.0, "unit": "nats"}
    write(tmp_path, first, 0)
    write(tmp_path, report_of("vae", 1), 1)
    assert table_of(tmp_path, capsys, "--metrics=kl")[0] == {"vae": ["2", "2 (1 of 2 seeds)"]}


def test_reports_of_other_versions_of_torch_are_said(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0), 0)
    write(tmp_path, report_of("vae", 1) | {"versions": {"torch": "2.10.0"}}, 1)
    assert "Careful: these runs were evaluated with different versions of packages." in table_of(tmp_path, capsys)[1]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.1], "0.1"),
        ([1e300, -1e300, 9e299], "3e+299 ± 1e+300"),
        ([1e12, 1.1e12], "1.05e+12 ± 7e+10"),
        ([1e-300, 2e-300], "1.5e-300 ± 7e-301"),
        ([None, None], ""),
        ([0.0, 0.0], "0"),
        ([0, 3], "2 ± 2"),
    ],
)
def test_a_summary_is_short_whatever_the_numbers(values: list[float | None], shown: str) -> None:
    assert summary(values) == shown


# ---------------------------------------------------------------------- which checkpoint


def test_best_is_taken_where_last_was_not_evaluated_and_it_is_said(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0), 0, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["1", "0.1"]}
    assert below == ["mse: per pixel; to compare with: 0.5 floor", "checkpoint: best.ckpt (1 run)"]
    write(tmp_path, report_of("vae", 1, 0.2), 1, "last")
    write(tmp_path, report_of("vae", 1, 0.3), 1, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae checkpoint=best": ["1", "0.1"], "vae checkpoint=last": ["1", "0.2"]}
    assert "Careful: different checkpoints: best.ckpt (1 run), last.ckpt (1 run)" in below
    for name in ("best", "best.ckpt"):
        assert table_of(tmp_path, capsys, f"--checkpoint={name}")[0] == {"vae": ["2", "0.2 ± 0.1"]}


def test_best_checkpoints_of_other_steps_are_seeds_and_the_steps_are_said(tmp_path: Path, capsys: Capture) -> None:
    for seed, step in enumerate([33, 77]):
        write(tmp_path, report_of("vae", seed) | {"step": step}, seed, "best")
    rows, below = table_of(tmp_path, capsys)
    assert rows == {"vae": ["2", "0.1"]}
    assert "vae: the checkpoints are of steps 33 to 77." in below


def test_a_checkpoint_of_another_name_is_offered(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae"), 0, "epoch=3")
    with pytest.raises(SystemExit) as stop:
        compare.main([str(tmp_path)])
    assert stop.value.code == 1
    assert "It holds that of epoch=3: --checkpoint takes it." in capsys.readouterr().err
    assert table_of(tmp_path, capsys, "--checkpoint=epoch=3")[0] == {"vae": ["1", "0.1"]}


def test_reports_of_an_older_encdec_are_named_and_not_mixed_in(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, report_of("vae", 0, 0.1), 0)
    old = report_of("vae", 1, 0.3) | {"format": 1}
    old["figures"] = old.pop("metrics")
    path = write(tmp_path, old, 1)
    compare.main([str(tmp_path), "--markdown"])
    out, err = capsys.readouterr()
    assert "| vae | 1 | 0.1 |" in out
    assert err == (
        f"encdec: {path} can't be read as an evaluation (ValueError): its format is 1, of an older encdec whose "
        "metrics mean other things, but this one reads 2; write it again by `python -m encdec test`. It is left out.\n"
    )
