"""What the README and the site say is so: links lead somewhere, commands are taken, counts are those of the tests."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from encdec.cli import main
from tests.cli import (
    test_compare_damaged,
    test_config_shapes,
    test_errors,
    test_more_faults,
    test_parser_sentences,
    test_trainer_flags,
)
from tests.conftest import ROOT, RunCLI
from tests.data import test_contract, test_datasets
from tests.system import test_fuzz, test_resume
from tests.training import test_schedules

BAD_INPUTS = (
    test_errors.WRONG_CALLS, test_errors.FAULTS, test_errors.PLUGINS,
    test_config_shapes.CONFIGS, test_config_shapes.UNKNOWN, test_config_shapes.NULLS, test_config_shapes.FLAGS,
    test_parser_sentences.SENTENCES, test_schedules.REFUSED, test_schedules.WRONG,
    test_trainer_flags.REFUSED, test_trainer_flags.LATE,
    test_datasets.FAULTS, test_contract.BAD, test_compare_damaged.DAMAGED, test_more_faults.SENTENCES,
)  # fmt: skip
COUNTS = {
    "kinds of training killed or stopped at a chosen moment": len(test_resume.CASES) + len(test_resume.STOPS),
    "kinds of bad input": sum(len(table) for table in BAD_INPUTS),
    "mutated configs, checkpoints, exports and reports": sum(test_fuzz.CASES.values()),
}
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").glob("*.md")],
    key=lambda path: path.as_posix(),
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return [code for kind, code in FENCED.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a shell command is shown, and its words."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                for words in line.split("#")[0].split("&&"):
                    if words.strip():
                        yield named(page), shlex.split(words)


def encdec_commands() -> list[tuple[str, list[str]]]:
    """The same of encdec's own commands, by what follows `encdec`."""
    found = []
    for page, words in commands():
        if "-m" in words and "encdec" in words:
            found.append((page, words[words.index("encdec") + 1 :]))
        elif words[0] == "encdec":
            found.append((page, words[1:]))
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repositories and the site make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain}


def test_the_counts_of_what_was_tried_are_those_of_the_tests() -> None:
    page = " ".join((ROOT / "docs" / "resuming.md").read_text(encoding="utf-8").split())
    said = {what: re.findall(rf"(\d+) {what}", page) for what in COUNTS}
    assert said == {what: [str(count)] for what, count in COUNTS.items()}


def test_the_readme_is_short_and_has_the_commands_that_ci_runs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    for marker in ("<!-- set-up 1 -->", "<!-- set-up 2 -->"):
        start = lines.index(marker)
        assert lines[start + 1] == "```bash"
        assert lines[start + 3] == "```", "one command"
    claim = "\n".join(lines).split("<!-- claim: at most three sentences -->")[1].split("<!-- /claim -->")[0]
    assert len(re.findall(r"[a-z)]\.\s", claim)) <= 3


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_images_exist(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{named(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{named(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{named(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_names_this_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|opt)/\S*|pypi\.org|download\.pytorch\.org", text)


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    # not by yaml: the file may hold tags that only mkdocs knows
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    shown = set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    generated = {"index.md", "extend.md", "security.md", "changelog.md", "contributing.md"}
    assert shown == generated | {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


@pytest.mark.slow
def test_the_site_opens_from_disk_without_a_network(tmp_path: Path) -> None:
    """It is built without a warning, all that its pages load and link lies beside them, and formulas are drawn."""
    pytest.importorskip("mkdocs", reason="the site is built where the extra `docs` is installed")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    pages = [
        path for path in tmp_path.rglob("*.html") if path.name not in ("404.html", "answer.html")
    ]  # the study's own file
    assert len(pages) > 35
    formulas = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "arithmatex" not in text, f"{page.name}: a formula is not drawn"
        formulas += text.count("<math")
        loaded = re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="([^"]+)"', text)
        linked = re.findall(r'<a[^>]* href="([^"#?]+)', text)
        assert len(loaded) > 3
        for file in loaded + [link for link in linked if not re.match(r"[a-z]+:", link)]:
            assert (page.parent / file.split("#")[0]).is_file(), f"{page.name}: {file}"
    assert formulas > 60


def test_python_blocks_parse() -> None:
    found = [(named(page), code) for page in PAGES for code in blocks(page, "python")]
    assert len(found) > 5
    for page, code in found:
        compile(code, page, "exec")


def test_files_and_modules_of_shown_commands_exist() -> None:
    for page, words in commands():
        for word in words:
            if word.startswith(("configs/", "benchmarks/", "constraints")):
                assert (ROOT / word).exists(), f"{page}: {word}"
        if "-m" in words and (module := words[words.index("-m") + 1]).startswith(("benchmarks.", "tests.")):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{page}: {module}"


def test_the_command_line_takes_every_shown_fit(cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it is parsed and checked up to where the training would begin."""
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1")
    (project / "FOLDER").mkdir()
    (project / "FILE").write_bytes((project / "lightning_logs/vae/version_0/checkpoints/last.ckpt").read_bytes())
    recipe = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    for name, source in re.findall(r"`plugins/(\w+)\.py`:\n\n```python\n(.*?)```", recipe, re.DOTALL):
        (project / "plugins" / f"{name}.py").write_text(source, encoding="utf-8")
    shown = [(page, args) for page, args in encdec_commands() if args[0] == "fit"]
    assert len(shown) > 10
    for page, args in shown:
        capsys.readouterr()
        asks = any(arg.endswith(".help") or arg == "--print_config" for arg in args)
        with pytest.raises(SystemExit) as ended:
            main([*args, *([] if asks else ["--print_config"])])
        printed = capsys.readouterr()
        assert not ended.value.code, f"{page}: {' '.join(args)}: {printed.err}"
        assert printed.out, f"{page}: {' '.join(args)}"


def test_the_other_commands_that_are_shown_have_these_flags(
    cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is called without the files it names: what is missing is then a file, never a flag."""
    shown = [(page, args) for page, args in encdec_commands() if args[0] not in ("fit", "study", "configs")]
    assert {args[0] for _, args in shown} == {"test", "predict", "export", "compare"}
    for page, args in shown:
        with pytest.raises(SystemExit) as ended:
            cli(*args)
        error = capsys.readouterr().err
        assert ended.value.code in (1, 2), f"{page}: {' '.join(args)}"
        assert re.search(r"there is no|nothing|no evaluation|does not exist|not found", error.lower()), error


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")  # Lightning's own
def test_the_readmes_python_runs(cli: RunCLI, project: Path) -> None:
    cli("fit", "--config=configs/vae.yaml", "--trainer.max_epochs=1")
    first, mine = blocks(ROOT / "README.md", "python")
    scope: dict[str, object] = {}
    exec(first.replace("max_epochs=20", "max_epochs=1, enable_progress_bar=False"), scope)
    assert scope["images"].shape == (16, 1, 8, 8)  # type: ignore[attr-defined]
    assert type(scope["trained"]).__name__ == "VAE"
    (project / "plugins").unlink()
    (project / "plugins").mkdir()
    (project / "plugins" / "mine.py").write_text(mine, encoding="utf-8")
    cli("fit", "--model=Mine", "--trainer.max_epochs=1")
    assert (project / "lightning_logs" / "mine" / "version_0" / "checkpoints" / "last.ckpt").exists()


def test_the_citation_names_the_version() -> None:
    from encdec import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "MIT"
