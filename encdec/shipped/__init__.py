"""The configs and plugins that come with encdec, in every installation and in every working directory.

They lie in the folders `configs` and `plugins` of the repository, and beside this file in a wheel (see setup.py). A
file of the working directory wins over the one of the same name that comes with encdec.
"""

import re
from functools import cache
from itertools import dropwhile, takewhile
from os import PathLike
from pathlib import Path

from encdec.messages import suggestion

CONFIGS = "configs"
PLUGINS = "plugins"
STUDIES = "study"
"""The folder of the files of studies, in the one of configs."""


def folder(name: str) -> Path | None:
    """The folder `configs` or `plugins` that comes with encdec; None where somebody took it away."""
    here = Path(__file__).resolve().parent
    root = here.parent.parent
    places = [here, *[root] * (root / "pyproject.toml").is_file()]
    return next((place / name for place in places if (place / name).is_dir()), None)


@cache
def configs() -> dict[str, Path]:
    """The files that come with encdec by their names, such as `vae.yaml`, `data/mnist.yaml` and `study/quick.yaml`."""
    top = folder(CONFIGS)
    files = [path for path in (top.rglob("*") if top is not None else ()) if path.suffix in (".yaml", ".sbatch")]
    by_name = {path.relative_to(top).as_posix(): path for path in files}  # type: ignore[arg-type]
    return dict(sorted(by_name.items(), key=lambda item: (item[0].count("/"), item[0])))


def config(name: str, within: str = "") -> Path | None:
    """The config of a name that comes with encdec, `vae.yaml` or `configs/vae.yaml`; None if there is none.

    Args:
        name: compared with the names that there are, so that it leads to no other place.
        within: a folder of configs in which the name is looked up before all others.
    """
    name = Path(name).as_posix().removeprefix(f"{CONFIGS}/")
    found = configs()
    return found.get(f"{within}/{name}") or found.get(name)


def find(name: str | PathLike[str], within: str = "") -> Path:
    """The file that the name of a config means: of the working directory, or else the one that comes with encdec.

    `vae.yaml` is also `configs/vae.yaml` of the working directory. What is nowhere stays as it is.

    Args:
        name: a path, or a name from `configs`.
        within: see `config`.
    """
    path = Path(name)
    own = [path, *(Path(CONFIGS, part, path) for part in dict.fromkeys((within, "")) if not path.is_absolute())]
    if path.exists():  # a folder, too: what the user named is there
        return path
    return next((place for place in own if place.is_file()), None) or config(str(name), within) or path


def meant(name: str) -> str:
    """`; did you mean …?` for a config that is nowhere, or nothing."""
    wanted, local = Path(name), sorted(Path().glob(f"{CONFIGS}/**/*.yaml"))
    # of several of a name, one in a folder of the same name, one of the working directory, one in no folder below
    found = sorted(map(Path, configs()), key=lambda path: -len(path.parts))
    found += sorted(local, key=lambda path: -len(path.parts))
    found.sort(key=lambda path: path.parent.name == wanted.parent.name)
    # without their endings, which make all of them similar
    return suggestion(wanted.stem, {path.stem: path.as_posix() for path in found})


def plugin_files(local: Path = Path(PLUGINS)) -> list[Path]:
    """The files of plugins by name: those of the working directory, and those that come with encdec.

    Args:
        local: the folder whose files win.
    """
    own = {path.stem: path for path in local.glob("*.py")}
    top = folder(PLUGINS)
    coming = {path.stem: path for path in (top.glob("*.py") if top is not None else ())}
    return [path for _, path in sorted((coming | own).items())]


def first_sentence(path: Path) -> str:
    """What a config says of itself in the first sentence of its first comment; empty if it has none."""
    lines = dropwhile(lambda line: not _is_prose(line), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line[2:].strip() for line in takewhile(_is_prose, lines))
    return re.split(r"(?<=[.?]) (?=[A-Z-])", text)[0]


def _is_prose(line: str) -> bool:
    """Whether a line is a comment, and neither a command, which is indented, nor `#!`."""
    return line.startswith("# ") and not line.startswith("#  ")
