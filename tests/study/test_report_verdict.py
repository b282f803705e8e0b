"""The verdict of a study's report: what it says, and what it does not."""

import re
from pathlib import Path

from .reports import Folder, markdown, section, usual


def test_the_verdict_names_who_is_ahead_and_by_how_much(folder: Folder) -> None:
    verdict = section(markdown(folder), "Question and verdict")
    assert "the one without is ahead in 5" in verdict
    assert "its latent: vae (VAE), ae (AE). Without: svi (SVI) and assignment (Assignment)." in verdict
    assert "better in 3 of 3 seeds" in verdict
    assert "Nothing was tuned" in verdict


def test_the_verdict_turns_with_the_numbers(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "turned", ("svi", "vae"))
    folder.fill()  # now the VAE is better
    assert "the one with an encoder in 5" in section(markdown(folder), "Question and verdict")


def test_what_the_seeds_do_not_separate_is_not_decided(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "open", ("vae", "svi"))
    for seed, (first, second) in enumerate([(1.0, 1.4), (1.5, 1.2), (1.2, 1.3)]):
        folder.done("vae", "digits", seed, usual(first))
        folder.done("svi", "digits", seed, usual(second))
    verdict = section(markdown(folder), "Question and verdict")
    assert "in 5 the seeds do not separate them" in verdict
    assert "Not separated" in verdict
    assert "is ahead by" not in verdict


def test_one_seed_gives_no_interval_and_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "one", ("vae", "svi"), seeds=(7,))
    folder.fill()
    text = markdown(folder)
    assert "With one seed there is no interval over seeds" in text
    assert "±" not in section(text, "Question and verdict")
    assert not re.search(r"± [\d.]+", section(text, "Results on digits"))


def test_a_study_without_both_kinds_gives_no_verdict(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "one_kind", ("svi", "assignment"))
    folder.fill()
    assert "no paradigm with an encoder has been evaluated" in section(markdown(folder), "Question and verdict")


def test_hardly_trained_models_are_named_beside_the_verdict(folder: Folder) -> None:
    verdict = section(markdown(folder), "Question and verdict")
    assert "hardly trained" not in verdict
    for seed in folder.seeds:
        folder.done("vae", "digits", seed, usual(1.5), evaluation={"step": 33})
    verdict = section(markdown(folder), "Question and verdict")
    assert "On digits, vae is hardly trained, after 33 steps" in verdict


def test_who_is_no_better_than_the_mean_image_is_named(folder: Folder) -> None:
    for seed in folder.seeds:
        folder.done("vae", "digits", seed, usual(1.5) | {"mse": usual(7.31)["mse"]})
    verdict = section(markdown(folder), "Question and verdict")
    assert "On digits, vae reconstructs no better than the mean image" in verdict
    for name in folder.paradigms:
        for seed in folder.seeds:
            folder.done(name, "digits", seed, usual(8))
    verdict = section(markdown(folder), "Question and verdict")
    assert "On digits, none of the paradigms reconstructs better than the mean image" in verdict


def test_a_partial_report_says_what_is_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "partial", ("vae", "svi"), seeds=(0, 1))
    folder.done("vae", "digits", 0, usual(1))
    text = markdown(folder)
    differences = section(text, "Differences to the baseline")
    assert "those of vae, the baseline, of which 1 of 2 seeds is done." in differences
    assert "| svi | not known yet | – |" in section(text, "Results on digits")
    assert "no paradigm without an encoder has been evaluated yet" in section(text, "Question and verdict")
    folder.done("svi", "digits", 0, usual(1))
    assert "two seeds give no correlation" in section(markdown(folder), "Differences to the baseline")
