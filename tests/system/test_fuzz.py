"""No file makes the command line run, fetch or open what it names, hang, or end in anything but a sentence."""

import json
from pathlib import Path

import pytest

from tests import fuzzing, killing

CASES = {"configs": 80, "run configs": 90, "checkpoints": 120, "exports": 70, "reports": 80}
"""How many mutations of each kind are tried. A case can be tried alone: it depends on its number and the seed only."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_mutated_files_are_refused_or_read_and_nothing_else_happens(kind: str, tmp_path: Path) -> None:
    report, project = tmp_path / "findings.json", tmp_path / "project"
    project.mkdir()
    killing.call(tmp_path, fuzzing.fuzz, kind, 0, range(CASES[kind]), project, report, seconds=400)
    findings = json.loads(report.read_text())
    assert not findings, "\n\n".join(
        f"case {f['case']}: {f['mutation']}\n  {f['fault']}\n  {f['output']}" for f in findings
    )
