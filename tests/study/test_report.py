"""A study's report: what it says follows from the numbers, and nothing is filled in, mixed or left out silently."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from encdec.evaluation.image_values import ImageValues
from encdec.study import state
from encdec.study.plan import jobs
from encdec.study.report import IMAGES, write_report
from encdec.study.spec import load

from .reports import FRECHET, Folder, markdown, metric, rows, section, usual


def test_three_files_are_written(folder: Folder) -> None:
    written = write_report(folder.path)
    assert [path.name for path in written] == ["report.html", "report.md", "results.csv"]
    assert all(path.is_file() for path in written)


def test_sections_are_in_the_order_of_the_question(folder: Folder) -> None:
    titles = re.findall(r"^## (.*)$", markdown(folder), re.M)
    assert titles == [
        "Question and verdict",
        "Completeness",
        "Results on digits",
        "Differences to the baseline",
        "Ranks by seed",
        "What it costs, and what it reaches",
        "What an encoder buys, in parts",
        "Samples and reconstructions",
        "Training curves",
        "Methods and caveats",
        "Tuning",
        "Versions and commands",
    ]


def test_nothing_done_is_a_report_too(tmp_path: Path) -> None:
    text = markdown(Folder(tmp_path / "empty"))
    assert "0 of 6" in section(text, "Completeness")
    assert "None yet" in section(text, "Question and verdict")


def test_failures_are_listed_with_their_last_line(folder: Folder) -> None:
    shutil.rmtree(folder.job("svi", "digits", 1))
    folder.state("svi", "digits", 1, status="failed", stage="fit", error="error: <the loss> is nan")
    text = markdown(folder)
    completeness = section(text, "Completeness")
    assert "11 of 12" in completeness
    assert "svi/digits/seed_1" in completeness
    assert "failed in fit: error: &lt;the loss&gt; is nan" in completeness


def test_missing_seeds_are_never_filled_in(folder: Folder) -> None:
    shutil.rmtree(folder.job("assignment", "digits", 2))
    text = markdown(folder)
    line = next(line for line in section(text, "Results on digits").splitlines() if line.startswith("| assignment"))
    assert "2 of 3 seeds" in line
    assert "**" not in line  # it is the best, but of other seeds
    assert "assignment" not in section(text, "Ranks by seed").partition("Not ranked")[0]
    assert "Not ranked, because seeds are missing: assignment" in text
    assert "assignment" not in section(text, "Question and verdict").partition("On digits")[2]
    gaps = section(text, "Differences to the baseline")
    assert "2 seeds of 3 in common" in next(line for line in gaps.splitlines() if line.startswith("| assignment"))


def test_means_are_those_of_the_seeds(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "means", ("vae", "svi"))
    for seed, value in enumerate((10.0, 12.0, 14.0)):
        folder.done("vae", "digits", seed, {"frechet_classifier": metric(value, "squared distance")})
        folder.done("svi", "digits", seed, {"frechet_classifier": metric(value - 5 - seed, "squared distance")})
    text = markdown(folder)
    assert "| vae | yes | 12.0 ± 5.0 |" in text  # t = 4.303, s = 2, n = 3: 4.97
    assert "| svi | no | **6.0 ± 2.5** |" in text
    # differences −5, −6, −7, perfectly correlated
    assert "−6.0 ± 2.5 (better in 3 of 3; r = 1.00)" in section(text, "Differences to the baseline")


def test_the_test_sets_error_of_a_difference_is_taken_image_by_image(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "images", ("vae", "svi"))
    generator = np.random.default_rng(0)
    hard = 10 * generator.normal(size=400)  # what makes an image hard for both, and cancels in their difference
    of = {(name, seed): hard + generator.normal(size=400) for name in folder.paradigms for seed in folder.seeds}
    for (name, seed), values in of.items():
        folder.done(
            name,
            "digits",
            seed,
            {"mse": metric(float(values.mean()), "per pixel")},
            values={"mse": ImageValues(values.astype(np.float32).astype(np.float64))},
        )
    between = np.mean([of["svi", seed] - of["vae", seed] for seed in folder.seeds], axis=0)
    error = between.std(ddof=1) / 20
    assert f"test images ± {error:.3f}" in section(markdown(folder), "Differences to the baseline")
    next(folder.path.rglob("last.evaluation.npz")).write_bytes(b"damaged")
    assert "test images ±" not in section(markdown(folder), "Differences to the baseline")


def test_other_images_are_not_mixed_in(folder: Folder) -> None:
    data = {"class": "Digits", "image_shape": [1, 8, 8], "images": {}, "fingerprint": "other images"}
    folder.done("svi", "digits", 0, usual(0.001), evaluation={"data": data})
    text = markdown(folder)
    completeness = section(text, "Completeness")
    assert "not compared: the fingerprint of its images is other images" in completeness
    line = next(line for line in section(text, "Results on digits").splitlines() if line.startswith("| svi"))
    assert "2 of 3 seeds" in line


def test_other_settings_of_the_evaluation_are_not_mixed_in(folder: Folder) -> None:
    folder.done("svi", "digits", 0, usual(0.001), evaluation={"settings": {"num_images": 10, "num_samples": 10_000}})
    completeness = section(markdown(folder), "Completeness")
    assert "it was evaluated with num_images = 10 (most others: 1000)" in completeness


def test_an_older_format_is_not_mixed_in(folder: Folder) -> None:
    folder.done("svi", "digits", 0, usual(0.001), evaluation={"format": 1})
    assert "its format is 1" in section(markdown(folder), "Completeness")


def test_other_threads_are_said(folder: Folder) -> None:
    folder.done("svi", "digits", 0, usual(1.1), state={"threads": 2})
    completeness = section(markdown(folder), "Completeness")
    assert "differ in threads of training: svi/digits/seed_0 2 (most others: 1)" in completeness
    assert "12 of 12" in completeness


def test_a_damaged_evaluation_is_named_and_left_out(folder: Folder) -> None:
    path = next(folder.job("svi", "digits", 0).rglob("last.evaluation.json"))
    path.write_text("{")
    completeness = section(markdown(folder), "Completeness")
    assert "11 of 12" in completeness
    assert "can't be read as an evaluation" in completeness
    assert str(folder.path) not in completeness


def test_likelihoods_in_other_units_are_not_compared(folder: Folder) -> None:
    for seed in folder.seeds:
        other = usual(1.0) | {"nll_bound": metric(-500.0, "nats per image, Gaussian, K = 64")}
        folder.done("assignment", "digits", seed, other)
    text = markdown(folder)
    assert "assignment in nats per image, Gaussian, K = 64" in section(text, "Results on digits")
    likelihood = next(line for line in section(text, "Question and verdict").splitlines() if "Likelihood" in line)
    assert "assignment" not in likelihood


def test_a_likelihood_given_the_label_is_not_compared(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "labels", ("vae", "svi", "label"))
    folder.fill()
    text = markdown(folder)
    assert "label given the label, p(x|y)" in section(text, "Results on digits")
    verdict = section(text, "Question and verdict")
    assert "label reads labels, which the others are not given" in verdict
    bullets = [line for line in verdict.splitlines() if line.startswith("- ")]
    assert len(bullets) == 5  # though it has the best numbers
    assert all("svi" in line and "label " not in line for line in bullets)


def test_what_is_undefined_is_named_and_takes_no_part(tmp_path: Path) -> None:
    """A flow beside a VAE: no number, no rank, no failure and nothing that is missing, in all three files."""
    folder = Folder(tmp_path / "flows", ("vae", "gan", "svi"), seeds=(0, 1))
    folder.fill()
    why = "GAN makes images of noise, without latents or p(x|z)"
    undefined = {"reconstruction": why, "likelihood": why, "latent space": why, "latent_milliseconds": "no latents"}
    of_latents = {"mse", "nll_bound", "target_near_encoder", "elbo_amortisation_gap", "latent_milliseconds"}
    for seed in (0, 1):
        metrics = {name: value for name, value in usual(1.5).items() if name not in of_latents}
        folder.done("gan", "digits", seed, metrics, evaluation={"undefined": undefined})
    shutil.rmtree(folder.job("svi", "digits", 1))  # missing is another thing
    text = markdown(folder)

    def cells(title: str, name: str) -> list[str]:
        (line,) = [line for line in section(text, title).splitlines() if line.startswith(f"| {name} |")][:1]
        return [cell.strip() for cell in line.strip("|").split("|")][1:]

    assert cells("Results on digits", "gan").count("undefined") == 3
    assert "undefined" not in cells("Results on digits", "svi")
    assert "reconstruction, likelihood and latent space" in section(text, "Results on digits")
    assert why in section(text, "Results on digits")
    assert cells("Differences to the baseline", "gan").count("undefined") == 3
    assert cells("Ranks by seed", "gan").count("undefined") == 0, "of one paradigm there are no ranks"
    assert "Not ranked, because seeds are missing: svi." in section(text, "Ranks by seed")
    assert "undefined" in cells("What it costs, and what it reaches", "gan")
    assert "5 of 6 jobs are done and compared; 1 pending." in section(text, "Completeness")
    assert "gan" not in section(text, "Completeness")
    assert "<td" in (html := (folder.path / "report.html").read_text(encoding="utf-8"))
    assert html.count("undefined") >= 7
    of_gan = [row for row in rows(folder) if row["paradigm"] == "gan"]
    named = {row["metric"]: row for row in of_gan if row["problem"]}
    assert named.keys() == undefined.keys()
    assert {(row["value"], row["status"]) for row in named.values()} == {("", "done")}
    assert named["likelihood"]["problem"] == f"undefined: {why}"
    assert all(row["value"] for row in of_gan if row["metric"] not in undefined)


def test_references_stand_below_the_table(folder: Folder) -> None:
    results = section(markdown(folder), "Results on digits")
    assert re.search(r"\| mean image \|  \| 0.073", results)
    assert re.search(r"\| 1,294 real training images \|  \|  \|  \| 8", results)


def test_ticks_are_written_in_full(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "ticks", ("vae", "svi"))
    for seed in folder.seeds:
        folder.done("vae", "digits", seed, {"mse": metric(0.0125 + 0.0005 * seed, "per pixel")})
        folder.done("svi", "digits", seed, {"mse": metric(0.0145 + 0.0002 * seed, "per pixel")})
    write_report(folder.path)
    chart = (folder.path / IMAGES / "headline-reconstruction-digits.svg").read_text(encoding="utf-8")
    ticks = [float(text) for text in re.findall(r">(0\.\d+)</text>", chart)]
    assert len(set(ticks)) == len(ticks) > 3
    assert {"0.0125", "0.0130"} <= set(re.findall(r">(0\.\d+)</text>", chart))


def test_the_decomposition_has_its_parts(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "parts", ("vae", "ae", "svi", "gan"))
    folder.fill()
    parts = section(markdown(folder), "What an encoder buys, in parts")
    assert "vae (VAE) minus svi (SVI)" in parts
    assert "ae (AE) minus vae (VAE)" in parts
    assert "Fréchet distance (mixture) ↓" in parts
    assert "aggregate: gan" in parts


def test_what_the_trained_latents_answer_is_not_called_the_encoders(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "pairings", ("vae", "assignment"))
    folder.fill()
    for seed in folder.seeds:
        trained = usual(1)
        del trained["target_near_encoder"]
        trained["target_near_paired"] = metric(0.9 + 0.001 * seed, "cosine of deviations from the mean image")
        folder.done("assignment", "digits", seed, trained)
    text = markdown(folder)
    for name in ("Question and verdict", "Results on digits", "Differences to the baseline"):
        assert "imilarity of neighbours’ targets" in section(text, name)
        assert "(encoder)" not in section(text, name)
        assert "(paired)" not in section(text, name)
    assert "(trained latents)" in section(text, "Results on digits")


@pytest.mark.parametrize(("fitted", "said"), [
    (100, "a fitted density helps vae most, whose distance from the prior is 2.0 times as large; for 1 of 2 the prior"),
    (400, "a fitted density helps none; for 2 of 2 the prior is better than what is fitted"),
])  # fmt: skip
def test_a_fitted_density_helps_only_where_it_is_nearer(tmp_path: Path, fitted: float, said: str) -> None:
    folder = Folder(tmp_path / "hole")
    for paradigm, distance in (("vae", fitted), ("svi", 1000.0)):
        for seed in folder.seeds:
            own = usual(1)
            own["frechet_classifier_prior"] = metric(200.0, FRECHET)
            own["frechet_classifier_mixture"] = metric(distance, FRECHET)
            folder.done(paradigm, "digits", seed, own)
    assert said in section(markdown(folder), "What an encoder buys, in parts")


def test_what_latents_the_headlines_samples_are_of_is_said(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "latents", ("vae", "svi"))
    folder.fill()
    for seed in folder.seeds:
        own = usual(1) | {"mse_amortisation_gap": metric(-0.0089, "per pixel")}
        own["frechet_classifier"] = own["frechet_classifier_gaussian"] = metric(27.0 + seed, FRECHET)
        folder.done("svi", "digits", seed, own)
    text = markdown(folder)
    fitted = "latents from a Gaussian fitted to those of training images"
    assert f"vae: latents from its prior; svi: {fitted}." in section(text, "Results on digits")
    (samples,) = [line for line in section(text, "Question and verdict").splitlines() if "Samples:" in line]
    assert f"; svi: {fitted}; vae: latents from its prior)" in samples
    parts = section(text, "What an encoder buys, in parts")
    assert "“prior” for vae; “gaussian” for svi." in parts
    assert "Where the gap of the MSE is negative, the own latent" in parts


def test_what_reads_labels_is_best_of_no_column(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "labels", ("vae", "svi", "cvae"))
    for seed in folder.seeds:
        for paradigm, distance in (("vae", 60.0), ("svi", 70.0), ("cvae", 30.0)):
            reads = {"reads_labels": paradigm == "cvae"}
            own = {"frechet_classifier": metric(distance, FRECHET)}
            folder.done(paradigm, "digits", seed, own, evaluation=reads)
    shown = section(markdown(folder), "Results on digits")
    assert "the best of each column is bold, without those that read labels" in shown
    assert "**60" in shown, shown
    assert "**30" not in shown


def test_a_share_has_no_tick_below_0(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "shares", ("vae", "svi"))
    for seed in folder.seeds:
        folder.done("vae", "digits", seed, {"recall_classifier": metric(0.0)})
        folder.done("svi", "digits", seed, {"recall_classifier": metric(0.9 + 0.02 * seed)})
    write_report(folder.path)
    chart = (folder.path / IMAGES / "headline-diversity-digits.svg").read_text(encoding="utf-8")
    assert not re.search(r">−\d", chart)
    assert ">0.8</text>" in chart


def test_what_the_decomposition_lacks_is_said(folder: Folder) -> None:
    assert "it needs paradigms of both kinds" in section(markdown(folder), "What an encoder buys, in parts")


def test_tuning_shows_trials_and_winners(folder: Folder) -> None:
    settings = yaml.safe_load((folder.path / "study.yaml").read_text())
    settings["tune"] = {"model.optimizer.lr": [1e-3, 3e-3], "by": "frechet"}
    (folder.path / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    for paradigm in folder.paradigms:
        for trial, score in enumerate((52.5, 40.25)):
            tried = {"model.optimizer.lr": f"{trial + 1}e-3"}
            place = f"tuning/{paradigm}/digits"
            target = folder.path / place / f"trial_{trial}"
            folder.state(paradigm, "digits", 0, status="done", score=score, settings=tried)
            target.mkdir(parents=True)
            (folder.job(paradigm, "digits", 0) / "state.json").rename(target / "state.json")
    tuning = section(markdown(folder), "Tuning")
    assert "Each paradigm has 2 trials on each data set." in tuning
    assert "| vae | 2 of 2 | model.optimizer.lr = 2e-3 | 40.25 | 52.50 |" in tuning
    assert "| vae | model.optimizer.lr = 1e-3 | 52.50 |" in tuning
    assert "**40.25**" in tuning


def test_jobs_that_the_study_no_longer_asks_for_are_named(folder: Folder) -> None:
    folder.done("gan", "digits", 0, usual(1.0))
    text = markdown(folder)
    assert "gan/digits/seed_0" in section(text, "Completeness")
    assert "gan" not in section(text, "Results on digits")


def test_results_of_other_settings_than_now_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("vae", "svi"):
        (tmp_path / "configs" / f"{name}.yaml").write_text(f"name: {name}")
    folder = Folder(Path("lightning_logs", "studies", "small"), ("vae", "svi"))
    folder.fill()
    hashes = {job.name: job.hash for job in jobs(load(folder.path / "study.yaml"))}
    for place in folder.path.glob("*/*/seed_*"):
        known = state.read(place)
        assert known is not None
        state.write(place, replace(known, hash=hashes[place.relative_to(folder.path).as_posix()]))
    assert "would make them again" not in markdown(folder)
    (tmp_path / "configs" / "svi.yaml").write_text("name: other")
    completeness = section(markdown(folder), "Completeness")
    assert "would make them again: svi/digits/seed_0, svi/digits/seed_1 and svi/digits/seed_2." in completeness
