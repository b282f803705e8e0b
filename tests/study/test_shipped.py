"""The studies that are shipped can be run as they stand."""

from pathlib import Path

import pytest

from encdec.study import plan, spec
from tests.cli.test_cli import printed
from tests.cli.test_configs import STUDIES
from tests.conftest import ROOT, RunCLI


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_job_of_a_shipped_study_is_a_fit(
    path: Path, cli: RunCLI, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = spec.load(path.relative_to(ROOT))
    assert study.name == path.stem
    jobs = plan.jobs(study)
    assert len(jobs) == len(study.paradigms) * len(study.data) * len(study.seeds)
    begins = plan.trials(study) or jobs
    assert len({job.hash for job in begins}) == len(begins)
    first = begins[0]
    one_each = {(job.paradigm, job.data): job for job in begins}
    for job in one_each.values():  # all paradigms on one data set, and one of them on all
        if job.data == first.data or job.paradigm == first.paradigm:
            assert printed(cli, capsys, *job.fit)["seed_everything"] == job.seed


def test_quick_and_answer_have_every_config() -> None:
    """A paradigm that is added joins both."""
    configs = {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    for name in ("quick", "answer"):
        study = spec.load(ROOT / "configs" / "study" / f"{name}.yaml")
        assert {arg for entry in study.paradigms.values() for arg in entry.args if arg.endswith(".yaml")} == configs
