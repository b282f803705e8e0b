"""What the README says was tried is what the tests try."""

import re

from tests.cli import (
    test_compare_damaged,
    test_config_shapes,
    test_errors,
    test_more_faults,
    test_parser_sentences,
    test_trainer_flags,
)
from tests.conftest import ROOT
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


def test_the_counts_of_what_was_tried_are_those_of_the_tests() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = {what: re.findall(rf"(\d+) {what}", readme) for what in COUNTS}
    assert said == {what: [str(count)] for what, count in COUNTS.items()}
