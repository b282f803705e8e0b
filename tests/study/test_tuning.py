"""Tuning: equal trials on the validation split, and the winner's settings in the runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from encdec.data import Digits
from encdec.evaluation.context import Context
from encdec.evaluation.features import find_space
from encdec.evaluation.view import DRAWS, View
from encdec.paradigms import VAE
from encdec.study import score
from encdec.study.plan import CACHE
from encdec.types import scaled
from tests.study.running import AE, COMMON, folder, job, run, write

LR = "model.optimizer.lr"
CONFIG = ["--config", "configs/vae.yaml"]


@pytest.mark.slow
def test_the_winner_of_the_trials_is_used_for_all_seeds(project: Path) -> None:
    tune = {LR: ["1e-5", "1e-2", "1e30"], "by": "val/elbo", "args": ["--trainer.max_epochs", 3]}
    file = write(project / "tuned.yaml", seeds=[0, 1], tune=tune, common=[*COMMON, "--trainer.max_epochs", 2])
    done = run(str(file))
    trials = [job("tuned", f"tuning/vae/digits/trial_{trial}") for trial in range(3)]
    assert [trial.status for trial in trials] == ["done"] * 3
    assert [trial.epochs for trial in trials] == [3] * 3
    assert trials[2].score is None, "its loss is not finite"
    assert "so the run is stopped" in trials[2].error
    assert trials[0].score is not None
    assert trials[1].score is not None
    assert trials[0].score > trials[1].score > 0, "negative ELBOs, of which the lower is better"
    last = [
        line.split(",") for line in (folder("tuned", "tuning/vae/digits/trial_1") / "curves.csv").read_text().split()
    ]
    assert -trials[1].score == pytest.approx(
        float([value for _, tag, value in last if tag == "val/elbo"][-1]), rel=1e-5
    )
    winner = json.loads((folder("tuned", "tuning/vae/digits") / "winner.json").read_text())
    assert winner == {"trial": "trial_1", "by": "val/elbo", "values": {LR: "1e-2"}, "score": trials[1].score}
    for seed in (0, 1):
        found = job("tuned", f"vae/digits/seed_{seed}")
        assert (found.status, found.settings, found.epochs) == ("done", {LR: "1e-2"}, 2)
        assert found.fit[found.fit.index(f"--{LR}") + 1] == "1e-2"
    assert done.stdout.index("trial_2 done") < done.stdout.index("seed_0 begins")
    assert "begins" not in run(str(file)).stdout
    # without the winner another one is, and the runs are others
    write(file, seeds=[0, 1], tune={**tune, LR: ["1e-5", "1e30"]}, common=[*COMMON, "--trainer.max_epochs", 2])
    again = run(str(file))
    assert "vae/digits/seed_0: settings have changed" in again.stderr
    assert job("tuned", "vae/digits/seed_1").settings == {LR: "1e-5"}


@pytest.mark.slow
def test_runs_wait_for_trials_that_failed_and_others_do_not(project: Path) -> None:
    own = {"args": AE, "tune": {"model.latent_dim": [0, 4]}}
    file = write(project / "waits.yaml", tune={LR: ["1e-3", "1e-2"]}, paradigms={"ae": own, "vae": CONFIG})
    done = run(str(file), code=1)
    assert job("waits", "tuning/ae/digits/trial_0").status == "failed"
    assert job("waits", "tuning/ae/digits/trial_1").status == "done"
    assert not folder("waits", "ae").exists()
    assert "ae/digits/seed_0 can't run: tuning/ae/digits/trial_0 has not ended" in done.stdout
    assert job("waits", "vae/digits/seed_0").status == "done"
    found = [job("waits", f"tuning/vae/digits/trial_{trial}").score for trial in (0, 1)]
    scores = [each for each in found if each is not None]
    assert len(scores) == 2
    chosen = job("waits", "vae/digits/seed_0").settings
    assert chosen == {LR: ["1e-3", "1e-2"][scores.index(min(scores))]}


def test_a_setting_that_a_paradigm_lacks_is_refused_before_anything_runs(project: Path) -> None:
    file = write(project / "lacks.yaml", paradigms={"vae": CONFIG, "ae": AE}, tune={"model.beta": [1, 2]})
    refused = run(str(file), code=2)
    assert refused.stderr.strip() == f"encdec: error: {file}: ae on digits: AE has no setting 'beta'."
    assert not folder("lacks", "tuning").exists()
    for common, words in (
        (["--trainer.devices", 2], "trainer.devices must be 1"),
        (["--trainer.enable_checkpointing", False], "a study evaluates checkpoints"),
        (["--checkpoint.dirpath", "x"], "checkpoint.dirpath would be the same for all jobs"),
    ):
        refused = run(str(write(project / "lacks.yaml", common=[*COMMON, *common])), code=2)
        assert words in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    refused = run(str(write(project / "lacks.yaml", paradigms={"vae": []})), code=2)
    assert "vae on digits: no paradigm is named: give [--config, configs/vae.yaml]" in refused.stderr


def test_the_score_is_the_frechet_distance_to_the_validation_split(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "SAMPLES", 300)
    data, paradigm = Digits(), VAE(image_shape=(1, 8, 8), latent_dim=2).eval()
    found = score.frechet_to_validation(paradigm, data)
    view = View(paradigm)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    with torch.no_grad():
        space = find_space(Context(view, train, test), "auto", CACHE, "0")
        images = torch.cat([scaled(pixels) for pixels in val.stream([torch.arange(len(val.labels))])])
        samples = view.images(view.noise(DRAWS["samples"], torch.arange(300)), torch.zeros(300, dtype=torch.int64))
        real, drawn = (space.features(x).double().numpy() for x in (images, samples))
    covariances = [np.cov(x, rowvar=False) for x in (real, drawn)]
    # the trace of a root is the sum of the roots of the eigenvalues
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    expected = ((real.mean(0) - drawn.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * roots
    assert found == pytest.approx(expected, rel=1e-3)
