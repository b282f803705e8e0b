"""The files of a study's report: their numbers, their bytes, and what the page may do."""

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encdec.study.report import IMAGES, write_report
from encdec.types import UserError

from . import reports
from .reports import Folder, markdown, rows, section, usual


def test_the_table_of_numbers_holds_all_of_them(folder: Folder) -> None:
    shutil.rmtree(folder.job("svi", "digits", 1))
    write_report(folder.path)
    found = rows(folder)
    of_one = [row for row in found if (row["paradigm"], row["seed"]) == ("vae", "0")]
    assert {row["metric"] for row in of_one} == {*usual(1.0), "fit_seconds"}
    mse = next(row for row in of_one if row["metric"] == "mse")
    assert (mse["unit"], mse["reference"], mse["has_encoder"]) == ("per pixel", "0.073", "true")
    assert float(next(row["standard_error"] for row in of_one if row["metric"] == "nll_bound")) == 0.1
    missing = [row for row in found if row["status"] == "pending"]
    assert [(row["paradigm"], row["seed"], row["value"]) for row in missing] == [("svi", "1", "")]


def test_the_same_results_give_the_same_bytes(folder: Folder, tmp_path: Path) -> None:
    def contents(path: Path) -> dict[str, bytes]:
        write_report(path)
        names = ["report.html", "report.md", "results.csv", *(f"{IMAGES}/{p.name}" for p in (path / IMAGES).iterdir())]
        return {name: (path / name).read_bytes() for name in names}

    before = contents(folder.path)
    elsewhere = tmp_path / "elsewhere" / "small"
    shutil.copytree(folder.path, elsewhere)
    for file in elsewhere.rglob("state.json"):  # as after a kill: another attempt, process, machine and time
        file.write_text(file.read_text()[:-1] + ', "attempts": 3, "pid": 99, "host": "b", "begun": "2027-01-01"}')
    assert contents(elsewhere) == before


def test_images_of_an_earlier_report_do_not_stay(folder: Folder) -> None:
    write_report(folder.path)
    (folder.path / IMAGES / "old-chart.svg").write_text("<svg/>")
    (folder.path / IMAGES / "notes.txt").write_text("mine")
    text = markdown(folder)
    assert not (folder.path / IMAGES / "old-chart.svg").exists()
    assert (folder.path / IMAGES / "notes.txt").exists()
    named = set(re.findall(rf"{IMAGES}/([^)]+)", text))
    assert named == {path.name for path in (folder.path / IMAGES).iterdir()} - {"notes.txt"}


def test_no_checkpoint_is_read(folder: Folder) -> None:
    before = markdown(folder)
    for job in folder.path.glob("*/*/seed_*"):
        (next(job.rglob("checkpoints")) / "last.ckpt").write_bytes(b"not a checkpoint")
    assert markdown(folder) == before


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not the folder of a study: it has no study\.yaml"):
        write_report(tmp_path)


def test_a_state_outside_of_its_folder_is_not_followed(folder: Folder) -> None:
    folder.state("svi", "digits", 0, status="done", checkpoint="../../../vae/digits/seed_0/last.ckpt")
    assert "names no checkpoint within its folder" in section(markdown(folder), "Completeness")


class Outline(HTMLParser):
    """What a page consists of, as far as these tests ask."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_the_page_needs_no_network_and_no_inline_style(folder: Folder) -> None:
    page = (write_report(folder.path)[0]).read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    policy = next(a["content"] for tag, a in outline.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    addresses = [value for _, attrs in outline.attributes for name, value in attrs.items() if name in ("src", "href")]
    assert all(address and address.startswith(("data:", "#")) for address in addresses)
    assert not [tag for tag, attrs in outline.attributes if "style" in attrs]
    assert not [tag for tag, attrs in outline.attributes if any(name.startswith("on") for name in attrs)]
    assert all(attrs.get("alt") for tag, attrs in outline.attributes if tag == "img")
    charts = [attrs for _, attrs in outline.attributes if attrs.get("role") == "img"]
    assert len(charts) >= 5
    assert all(attrs.get("aria-label") for attrs in charts)


def test_names_of_users_are_no_markup(tmp_path: Path) -> None:
    folder = Folder(
        tmp_path / "escaped", ("vae", "svi"), report={"baseline": "vae", "title": "<script>alert(1)</script>"}
    )
    folder.fill()
    shutil.rmtree(folder.job("svi", "digits", 1))
    folder.state("svi", "digits", 1, status="failed", error="</td><img src=x onerror=alert(1)> | `a`")
    page = (write_report(folder.path)[0]).read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert "<img src=x" not in (folder.path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_thirty_paradigms_on_four_data_sets_stay_below_8_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rough(shift: int) -> bytes:
        """8 × 8 images of 28 × 28 pixels of noise, which no format compresses well."""
        pixels = np.random.default_rng(shift).integers(0, 256, (240, 240)).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "PNG")
        return written.getvalue()

    monkeypatch.setattr(reports, "grid", rough)
    names = [f"paradigm_{place:02}" for place in range(30)]
    folder = Folder(tmp_path / "big", names, ("digits", "mnist", "fashion", "cifar10"))
    folder.fill()
    page = write_report(folder.path)[0]
    assert page.stat().st_size < 8e6
    assert page.read_text(encoding="utf-8").count("<img ") == 30 * 4 * 2
