"""The file of a study: what it means, and one sentence for each way in which it may be wrong."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from encdec.study import plan, spec, state
from encdec.types import UserError
from tests.conftest import refused
from tests.study.running import VAE, write

GRID = {"model.optimizer.lr": ["1e-3", "3e-3"]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"paradigm": {}}, "A study has no key 'paradigm'; did you mean paradigms?; there are name, seeds"),
    "no name": ({"name": None}, "name is missing: give it, such as `name: fashion`"),
    "no paradigms": ({"paradigms": {}}, "paradigms is empty: give it"),
    "a name with a slash": ({"name": "a/b"}, "name has the name 'a/b', which names a folder: use letters"),
    "a data set with a slash": ({"data": {"../x": ["--data", "Digits"]}}, "data has the name '../x'"),
    "a paradigm with a space": ({"paradigms": {"a b": VAE}}, "paradigms has the name 'a b'"),
    "a name of two lines": ({"name": "a\nb"}, r"name has the name 'a\nb'"),
    "a reserved paradigm": ({"paradigms": {"tuning": VAE}}, "which a study's folder has for something else"),
    "a paradigm named as the request to stop": ({"paradigms": {"stop": VAE}}, "has the name 'stop', which a study's"),
    "a paradigm named as the report": ({"paradigms": {"report.html": VAE}}, "has the name 'report.html', which a"),
    "twins": ({"paradigms": {"vae": VAE, "VAE": VAE}}, "has 'vae' twice but for upper and lower case"),
    "a seed of text": ({"seeds": ["one"]}, "seeds has 'one', but a seed is an integer between 0 and 4294967295"),
    "a negative seed": ({"seeds": [-1]}, "seeds has '-1'"),
    "a seed of truth": ({"seeds": [True]}, "seeds has 'true'"),
    "a number of seeds": ({"seeds": 3}, "seeds is '3', but it must be a list of integers, such as [0, 1, 2]"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds has 1 twice"),
    "no such config": (
        {"paradigms": {"vae": ["--config", "configs/vea.yaml"]}},
        "paradigms.vae names the config 'configs/vea.yaml', but there is no such file; did you mean configs/vae.yaml?",
    ),
    "no such data": ({"data": {"digits": "configs/data/digit.yaml"}}, "data.digits names the config"),
    "no config after --config": ({"paradigms": {"vae": ["--config"]}}, "paradigms.vae names the config ''"),
    "args as one text": (
        {"common": "--model.beta 4"},
        "common is '--model.beta 4', but it must be a list of arguments",
    ),
    "a value first": ({"paradigms": {"vae": ["configs/vae.yaml"]}}, "as in [--config, configs/vae.yaml]"),
    "a seed as an option": (
        {"common": ["--seed_everything", 1]},
        "has --seed_everything, which is set by the key `seeds`",
    ),
    "a folder as an option": ({"common": ["--trainer.default_root_dir=x"]}, "which is set by the study's folder"),
    "an unknown key of a paradigm": (
        {"paradigms": {"vae": {"arg": VAE}}},
        "paradigms.vae has no key 'arg'; did you mean args?",
    ),
    "options on a data set that is none": (
        {"paradigms": {"vae": {"args": VAE, "data": {"digit": []}}}},
        "paradigms.vae.data: the study has no data set 'digit'; did you mean digits?",
    ),
    "a grid without tune": (
        {"paradigms": {"vae": {"args": VAE, "tune": GRID}}},
        "paradigms.vae.tune has no effect, because the study has no key `tune`",
    ),
    "another number of trials": (
        {"tune": GRID, "paradigms": {"vae": {"args": VAE, "tune": {"model.beta": [1, 2, 3]}}}},
        "paradigms.vae.tune makes 3 trials, but `tune` makes 2: give each paradigm as many",
    ),
    "tuned by what is not measured": ({"tune": {**GRID, "by": "fid"}}, "tune.by is 'fid', but it must be `frechet`"),
    "tuned by the test split": ({"tune": {**GRID, "by": "test/loss"}}, "tune.by is 'test/loss'"),
    "nothing to tune": ({"tune": {"by": "frechet"}}, "tune names no setting that is tried"),
    "a value to tune": ({"tune": {"model.beta": 1}}, "tune.model.beta is '1', but it must be a list of values"),
    "a value twice": ({"tune": {"model.beta": [1, 1]}}, "tune.model.beta has a value twice"),
    "no setting": ({"tune": {"trials": [1]}}, "tune has the key 'trials', which is no setting such as"),
    "an unknown key of local": ({"local": {"slot": 2}}, "local has no key 'slot'; did you mean slots?"),
    "no slots": ({"local": {"slots": 0}}, "local.slots is '0', but it must be an integer of at least 1"),
    "a number of gpus": ({"local": {"gpus": 2}}, "local.gpus is '2', but it must be a list of the numbers of GPUs"),
    "no such baseline": ({"report": {"baseline": "vea"}}, "which is not a paradigm of the study; did you mean vae?"),
    "a report of text": ({"report": "vae"}, "report is 'vae', but it must hold settings by their names"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_one_sentence(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, words = BAD[name]
    file = write(project / "bad.yaml", **changes)
    for action in ([], ["status"], ["stop"], ["report"]):
        assert words in refused(capsys, "study", *action, str(file))
    assert not (project / "lightning_logs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must hold settings by their names"),
        ("name: [", "is not a YAML file"),
        (
            "data:\n\t- a\n",
            "is not a YAML file: line 2, column 1: found character '\\t' that cannot start any token: indent by",
        ),
        ("name: a\nname: b\n", "sets 'name' twice, in lines 1 and 2"),
        ("\udcff", "is not a YAML file"),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    text: str, words: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_bytes(text.encode(errors="surrogateescape"))
    assert words in refused(capsys, "study", "bad.yaml")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "study takes one file"),
        (["stat", "s.yaml"], "'stat' is not an action of study; did you mean status?"),
        (["--slots", "2", "s.yaml"], "study has no option --slots"),
        (["a.yaml", "b.yaml"], "study takes one file"),
        (["nothing.yaml"], "There is no file 'nothing.yaml'"),
        (["job", "nowhere"], "nowhere holds no state.json"),
    ],
)
def test_a_wrong_call_is_refused(
    args: list[str], words: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "study", *args)


def test_a_folder_that_can_not_be_made_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lightning_logs").write_text("")
    said = refused(capsys, "study", str(write(project / "s.yaml")), code=1)
    assert "lightning_logs/studies/s can't be used: Not a directory." in said


def test_a_report_of_what_never_ran_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "study", "report", str(write(project / "s.yaml")), code=1)
    assert "lightning_logs/studies/s is not there: run the study first." in said


def test_what_is_more_specific_wins_and_configs_come_first(project: Path) -> None:
    more = {"args": [*VAE, "--model.beta", 4], "data": {"digits": ["--model.latent_dim", 8]}}
    file = write(
        project / "order.yaml",
        data={"digits": ["--config", "configs/data/mnist.yaml", "--data", "Digits"]},
        paradigms={"vae": more},
        common=["--model.beta", 2, "--model.free", None, "--trainer.callbacks", []],
    )
    (job,) = plan.jobs(spec.load(file))
    assert job.fit[:4] == ("--config", "configs/vae.yaml", "--config", "configs/data/mnist.yaml")
    options = job.fit[4:]
    assert options[:6] == ("--model.beta", "2", "--model.free", "null", "--trainer.callbacks", "[]")
    assert options[6:12] == ("--data", "Digits", "--model.beta", "4", "--model.latent_dim", "8")
    assert ("--seed_everything", "0") in pairwise(options)
    assert job.name == "vae/digits/seed_0"
    assert job.command.startswith("encdec fit --config configs/vae.yaml")
    assert f"&& encdec test --ckpt_path {job.folder.as_posix()}/lightning_logs/vae/version_0" in job.command


def test_the_hash_follows_what_a_file_of_weights_holds(project: Path) -> None:
    Path("a.ckpt").write_bytes(b"a")
    Path("b.ckpt").write_bytes(b"a")
    Path("with.yaml").write_text("weights: a.ckpt\n")

    def hashes(*args: str) -> list[str]:
        return [job.hash for job in plan.jobs(spec.load(write(project / "w.yaml", paradigms={"vae": [*VAE, *args]})))]

    first, inline, by_config = (
        hashes("--weights", "a.ckpt"),
        hashes("--weights=b.ckpt"),
        hashes("--config", "with.yaml"),
    )
    assert first == inline
    assert len({*first, *by_config, *hashes()}) == 3
    Path("a.ckpt").write_bytes(b"another")
    assert hashes("--weights", "a.ckpt") != first
    assert hashes("--config", "with.yaml") != by_config
    with pytest.raises(UserError, match=r"names the weights 'c\.ckpt', but there is no such file"):
        hashes("--weights=c.ckpt")


def test_the_hash_follows_what_determines_the_result_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path("mine.yaml")
    config.write_text(Path("configs/svi.yaml").read_text())
    Path("plugins").unlink()
    Path("plugins").mkdir()
    plugin = Path("plugins/svi.py")
    plugin.write_text('"""A."""\nclass SVI:\n    """A."""\n    steps = 1  # a\n')

    def hashes(name: str = "h", **changes: Any) -> list[str]:
        file = write(project / f"{name}.yaml", **{"paradigms": {"svi": ["--config", "mine.yaml"]}, **changes})
        return [job.hash for job in plan.jobs(spec.load(file))]

    first = hashes()
    assert hashes("another_name") == first
    assert hashes(seeds=[0, 1])[:1] == first
    assert hashes(seeds=[1]) != first
    assert hashes(common=[]) != first
    assert hashes(local={"slots": 5}, report={"title": "t"}) == first
    config.write_text("# a comment\n" + config.read_text())
    config.rename("elsewhere.yaml")
    assert hashes(paradigms={"svi": ["--config=elsewhere.yaml"]}) == first
    Path("elsewhere.yaml").rename("mine.yaml")
    plugin.write_text('class SVI:\n    """Another text."""\n    steps = 1\n')
    Path("plugins/other.py").write_text("class Other: ...\n")
    assert hashes() == first
    plugin.write_text("class SVI:\n    steps = 2\n")
    assert hashes() != first
    plugin.write_text("class SVI:\n    steps = 1\n")
    assert hashes() == first
    before = config.read_text()
    config.write_text(re.sub(r"latent_dim: \d+", "latent_dim: 33", before))
    assert hashes() != first
    config.write_text(before)
    assert hashes() == first
    monkeypatch.setattr(plan, "__version__", "9.9")
    assert hashes() != first


def test_trials_are_all_combinations_with_the_first_seed_and_never_the_test_split(project: Path) -> None:
    tune = {"model.optimizer.lr": ["1e-3", "3e-3"], "model.latent_dim": [4, 8], "args": ["--trainer.max_epochs", 1]}
    own = {"args": VAE, "tune": {"model.beta": [1, 2, 3, 4]}}
    file = write(project / "t.yaml", seeds=[5, 6], paradigms={"vae": VAE, "own": own}, tune=tune)
    study = spec.load(file)
    trials = plan.trials(study)
    assert [dict(job.settings) for job in trials[:2]] == [
        {"model.optimizer.lr": "1e-3", "model.latent_dim": "4"},
        {"model.optimizer.lr": "1e-3", "model.latent_dim": "8"},
    ]
    assert [job.settings["model.beta"] for job in trials[4:]] == ["1", "2", "3", "4"]
    assert {job.seed for job in trials} == {5}
    assert all("encdec validate" in job.command and "encdec test" not in job.command for job in trials)
    assert all(job.fit.index("1") > job.fit.index("2") for job in trials[:1]), "the trials' epochs win"
    assert [job.blocked for job in plan.jobs(study)] == [
        "tuning/vae/digits/trial_0 has not ended", "tuning/own/digits/trial_0 has not ended",
    ] * 2  # fmt: skip


def test_a_state_that_is_damaged_is_named(project: Path) -> None:
    gone = '{"format": 1, "paradigm": "a", "data": "b", "seed": 0, "hash": "", "status": "gone"}'
    for content in ("{", "[]", '{"format": 2}', '{"format": 1}', gone):
        Path("state.json").write_text(content)
        with pytest.raises(UserError, match=r"^state\.json .* to run this job again"):
            state.read(Path())
    assert state.read(Path("nowhere")) is None
    whole = state.JobState("vae", "digits", 0, "abc", fit=("--model", "VAE"), settings={"a": "b"}, score=1.5)
    state.write(Path(), whole)
    assert state.read(Path()) == whole
