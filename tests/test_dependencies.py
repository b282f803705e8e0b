"""The constraints files pin what pyproject.toml asks for, and say nothing about where it came from."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from .conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
DOCS = [Requirement(line) for line in PROJECT["optional-dependencies"]["docs"]]
FILES = ("constraints.txt", "constraints-lowest.txt")


def pins(file: str) -> dict[NormalizedName, Version]:
    """Package -> version of a constraints file; anything but exact pins and comments fails."""
    found: dict[NormalizedName, Version] = {}
    for line in (ROOT / file).read_text().splitlines():
        if not line.startswith("#"):
            pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9a-z.]+)", line)  # no address, path, hash or local version
            assert pin, f"{file}: {line}"
            found[canonicalize_name(pin[1])] = Version(pin[2])
    return found


@pytest.mark.parametrize("file", FILES)
def test_each_dependency_is_pinned_within_its_bounds(file: str) -> None:
    pinned = pins(file)
    for dependency in DIRECT + (DOCS if file == "constraints.txt" else []):
        version = pinned[canonicalize_name(dependency.name)]
        assert version in dependency.specifier, f"{file}: {dependency.name} {version} is not {dependency.specifier}"


def test_the_lowest_pins_are_the_lower_bounds() -> None:
    pinned = pins("constraints-lowest.txt")
    for dependency in DIRECT:
        bounds = [Version(bound.version) for bound in dependency.specifier if bound.operator == ">="]
        assert bounds == [pinned[canonicalize_name(dependency.name)]], dependency.name


@pytest.mark.parametrize("file", FILES)
def test_no_address_is_recorded(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not [sign for sign in ("://", "@", "file:") if sign in text]


def test_the_compromised_lightning_releases_are_excluded() -> None:
    lightning = next(dependency for dependency in DIRECT if dependency.name == "lightning")
    assert not [release for release in ("2.6.2", "2.6.3") if release in lightning.specifier]
    for file in FILES:  # a package that Lightning asks for, of the same source and the same publishers
        assert pins(file)[canonicalize_name("pytorch-lightning")] >= Version("2.6.6")
