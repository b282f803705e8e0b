"""What real images score is computed once for a data set, and kept: the same numbers from the file as without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from encdec.evaluation import samples
from encdec.evaluation.features import FeatureSpace
from encdec.evaluation.references import Cache
from encdec.evaluation.results import Metrics
from encdec.evaluation.samples import evaluate_samples
from encdec.types import UserError

from .helpers import PIXELS, Gallery, context_of, some


def evaluated(cache: Cache | None, space: FeatureSpace = PIXELS, num_samples: int = 60) -> Metrics:
    view = Gallery(torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    context = context_of(view, some(90), some(70, seed=1), num_samples=num_samples)
    evaluate_samples(context, space, cache=cache)
    return context.metrics


def test_kept_references_give_what_computed_ones_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, without = Cache(tmp_path / "features", "abc"), evaluated(None)
    assert evaluated(cache) == without
    (file,) = (tmp_path / "features").iterdir()
    assert file.name.startswith("references-abc-")
    monkeypatch.setattr(samples, "_computed", lambda *_: pytest.fail("it is there"))
    assert evaluated(cache) == without
    reference = without.values["frechet_pixels"].reference
    assert reference is not None and reference > 0  # noqa: PT018


@pytest.mark.parametrize("content", [b"", b"PK", bytes(500)])
def test_damaged_references_are_computed_anew(content: bytes, tmp_path: Path) -> None:
    cache, without = Cache(tmp_path, "abc"), evaluated(Cache(tmp_path, "abc"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert evaluated(cache) == without
    assert len(file.read_bytes()) > 500


def test_all_that_references_depend_on_has_a_file_of_its_own(tmp_path: Path) -> None:
    evaluated(Cache(tmp_path, "abc"))
    evaluated(Cache(tmp_path, "other images"))
    evaluated(Cache(tmp_path, "abc"), replace(PIXELS, key="other weights"))
    evaluated(Cache(tmp_path, "abc"), replace(PIXELS, name="other"))
    evaluated(Cache(tmp_path, "abc"), num_samples=50)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_that_cant_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="What real images score can't be kept in"):
        evaluated(Cache(tmp_path / "file", "abc"))
