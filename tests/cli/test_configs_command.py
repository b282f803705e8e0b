"""`encdec configs`, and what the name of a config means."""

from pathlib import Path

import pytest

from encdec import shipped
from encdec.cli import main
from encdec.study import plan, spec
from tests.conftest import ROOT, RunCLI, refused

SHIPPED = [path for kind in ("yaml", "sbatch") for path in sorted((ROOT / "configs").rglob(f"*.{kind}"))]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_are_listed_with_what_they_say_of_themselves(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    listed = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert listed.keys() == {path.relative_to(ROOT / "configs").as_posix() for path in SHIPPED}
    assert len(listed) == len(lines), "each once"
    for name, words in listed.items():
        assert len(words) > 20, f"{name} needs a first line that says what it is"
        assert words in " ".join((ROOT / "configs" / name).read_text().replace("\n# ", " ").split())
        assert words.endswith((".", "?", ".py")) or name.startswith("study/"), "a whole sentence"


def test_a_terminal_folds_the_list_and_cuts_nothing(
    empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["configs"])
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    main(["configs"])
    folded = capsys.readouterr().out
    assert max(map(len, folded.splitlines())) <= 80
    assert folded.split() == whole.split()


@pytest.mark.parametrize(
    ("args", "copy"),
    [
        (["vae.yaml"], "vae.yaml"),
        (["configs/vae.yaml", "mine.yaml"], "mine.yaml"),
        (["data/mnist.yaml"], "mnist.yaml"),
        (["quick.yaml", "new/"], "new/quick.yaml"),
        (["cluster/slurm.sbatch", "."], "slurm.sbatch"),
    ],
)
def test_one_is_copied(args: list[str], copy: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the same again is no harm
        main(["configs", *args])
        assert capsys.readouterr().out == f"{copy}\n"
    folder = ROOT / "configs" / ("study" if args[0] == "quick.yaml" else "")
    assert (empty / copy).read_bytes() == (folder / args[0].removeprefix("configs/")).read_bytes()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["vea.yaml"], "No config 'vea.yaml' comes with encdec; did you mean vae.yaml?"),
        (["vae"], "did you mean vae.yaml?"),
        (["mnist.yaml"], "did you mean data/mnist.yaml?"),
        (["cifar10/vea.yaml"], "did you mean cifar10/vae.yaml?"),
        (["qqq.yaml"], "No config 'qqq.yaml' comes with encdec; `encdec configs` lists those that do."),
        (["../setup.py"], "No config '../setup.py' comes with encdec"),
        (["data"], "No config 'data' comes with encdec"),
        (["vae.yaml", "taken.yaml"], "taken.yaml is there already, and differs"),
        (["vae.yaml", "a", "b"], "3 words follow it"),
        (["--all"], "configs has no option --all"),
        ([""], "No config '' comes with encdec"),
    ],
)
def test_a_wrong_call_is_refused(args: list[str], words: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty / "taken.yaml").write_text("mine: 1\n")
    assert words in refused(capsys, "configs", *args)
    assert (empty / "taken.yaml").read_text() == "mine: 1\n"


def test_what_is_nearest_wins(empty: Path) -> None:
    assert shipped.find("vae.yaml") == shipped.find("configs/vae.yaml") == ROOT / "configs" / "vae.yaml"
    assert shipped.find("assignment.yaml", "study") == ROOT / "configs" / "study" / "assignment.yaml"
    assert shipped.find("../pyproject.toml") == Path("../pyproject.toml"), "only what is listed has a name"
    (empty / "configs" / "study").mkdir(parents=True)
    for name in ("configs/vae.yaml", "configs/study/quick.yaml"):
        (empty / name).touch()
    assert shipped.find("vae.yaml") == shipped.find("configs/vae.yaml") == Path("configs/vae.yaml")
    assert shipped.find("quick.yaml", "study") == Path("configs/study/quick.yaml")
    (empty / "vae.yaml").touch()
    assert shipped.find("vae.yaml") == Path("vae.yaml")
    (empty / "glo.yaml").mkdir()
    assert shipped.find("glo.yaml") == Path("glo.yaml"), "a folder of this name is what the user sees"


def test_a_call_says_where_its_config_is_from(project: Path, cli: RunCLI, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--config=beta.yaml"], ["--config", "beta.yaml"], ["-c", "configs/beta.yaml"]):
        assert "There is no file" in refused(capsys, "fit", *flags)
    (project / "configs").unlink()
    for flags in (["--config=vae.yaml"], ["--config", "vae.yaml"], ["-c", "configs/vae.yaml"]):
        with pytest.raises(SystemExit):
            cli("fit", *flags, "--print_config")
        out, err = capsys.readouterr()
        assert "VAE" in out
        name = flags[-1].removeprefix("--config=")
        assert err == f"encdec: {name} is {ROOT}/configs/vae.yaml, as there is no file of that name here.\n"
    (project / "glo.yaml").mkdir()
    assert "must be a file, but 'glo.yaml' is a folder" in refused(capsys, "fit", "--config=glo.yaml")


def test_a_study_means_the_same_wherever_its_configs_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's hash is of what its config says and its plugin does, not of their place."""
    here = plan.jobs(spec.load("quick.yaml"))
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert [job.hash for job in plan.jobs(spec.load("quick.yaml"))] == [job.hash for job in here]
    (project / "elsewhere" / "plugins").mkdir()
    (project / "elsewhere" / "plugins" / "glo.py").write_text("class GLO: ...\n")
    changed = [job.paradigm for job, before in zip(plan.jobs(spec.load("quick.yaml")), here, strict=True)
               if job.hash != before.hash]  # fmt: skip
    assert changed == ["glo"]


def test_plugins_are_found_once(project: Path) -> None:
    found = shipped.plugin_files()
    assert [path.stem for path in found] == sorted(path.stem for path in (ROOT / "plugins").glob("*.py"))
    assert all(path.parent == Path("plugins") for path in found), "of the working directory"
