"""What README and docs say the answer's study found is what its results.csv says."""

import csv
import re
from pathlib import Path

import pytest

from benchmarks import answer_table
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "answer" / "results.csv"
with RESULTS.open(newline="", encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))


def value(data: str, paradigm: str, metric: str) -> float:
    """The mean over the study's seeds."""
    found = [
        float(row["value"]) for row in ROWS if (row["data"], row["paradigm"], row["metric"]) == (data, paradigm, metric)
    ]
    return sum(found) / len(found)


def test_the_tables_of_the_results_are_those_of_the_study() -> None:
    tables = answer_table.marked(answer_table.PAGE.read_text(encoding="utf-8"))
    assert set(tables) == {row["data"] for row in ROWS}
    for data, text in tables.items():
        assert text == answer_table.table(RESULTS, data)
        assert text.count("\n") == 1 + len(answer_table.LATENT_BY), "a row for each paradigm"


def test_a_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "results.md"
    page.write_text("of old before\n<!-- table few -->\nold\n<!-- /table -->\nafter\n", encoding="utf-8")
    results = tmp_path / "results.csv"
    results.write_text(
        "data,paradigm,seed,metric,value,problem\n"
        "few,vae,0,frechet_classifier,60,\nfew,vae,1,frechet_classifier,62,\n"
        "few,cvae,0,frechet_classifier,35.26,\nfew,cvae,0,nll_bound,240.5,\n"
        "few,gan,0,mse,,has no latents\nfew,gan,0,frechet_classifier,70,\nother,ae,0,mse,0.01,\n"
    )
    monkeypatch.setattr(answer_table, "PAGE", page)
    answer_table.main([str(results)])
    rows = page.read_text(encoding="utf-8").splitlines()
    assert rows[:2] == ["of old before", "<!-- table few -->"]
    assert rows[-2:] == ["<!-- /table -->", "after"]
    assert [re.split(r" *\| *", row)[1:6] for row in rows[4:-2]] == [
        ["`cvae`", "encoder, label", "", "240.5 (given y)", "35.3"],
        ["`vae`", "encoder", "", "", "**61.0**"],
        ["`gan`", "a critic", "", "", "70.0"],
    ]


def test_the_readme_says_what_the_study_found() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    trained = [f"{value('fashion', name, 'mse'):.4f}" for name in ("glo", "gon", "ae")]
    assert f"(MSE {trained[0]}, {trained[1]} and {trained[2]})" in text
    mixtures = [f"{value('fashion', name, 'frechet_classifier_mixture'):.0f}" for name in ("glo", "gon", "ae")]
    assert f"(Fréchet distance {mixtures[0]}, {mixtures[1]} and {mixtures[2]})" in text
    collapsed = value("fashion", "vae_noenc", "mse")
    floor = next(float(row["reference"]) for row in ROWS if row["metric"] == "mse")
    assert f"ends {100 * (collapsed / floor - 1):.1f} % above the error of the mean image" in text
    of_prior, of_mixture = "frechet_classifier", "frechet_classifier_mixture"
    vae, glo, assignment = (
        f"{value('fashion', name, of_prior):.0f}; with a mixture {value('fashion', name, of_mixture):.0f}"
        for name in ("vae", "glo", "assignment")
    )
    assert f"| Fréchet {vae} | {value('fashion', 'vae_noenc', of_prior):.0f} | {glo} | {assignment} |" in text
