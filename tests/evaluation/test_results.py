"""Metrics are numbers, and processes share images without loss."""

import numpy as np
import pytest
import torch

from encdec.evaluation.processes import Processes
from encdec.evaluation.results import Metrics
from encdec.evaluation.view import View
from encdec.types import UserError

from .helpers import Linear, context_of, floats, random_images


def test_metrics_refuse_what_is_not_a_number() -> None:
    metrics = Metrics()
    metrics.add("a", float("nan"), "u", undefined="there is nothing to measure")
    metrics.add("b", torch.tensor([1.0, 2.0, 6.0]), "u")
    metrics.add("c", torch.tensor([4.0]), "u")
    assert metrics.undefined == {"a": "there is nothing to measure"}
    assert metrics.values["b"].value == 3
    assert metrics.values["b"].standard_error == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))
    assert metrics.values["c"].standard_error is None


def test_a_metric_of_a_question_that_is_undefined_says_why() -> None:
    metrics = Metrics(undefined={"reconstruction": "there are no latents", "recall_pca": "too few"})
    for name, why in (("mse", "there are no latents"), ("recall_pca", "too few"), ("other", "the metrics are")):
        with pytest.raises(UserError, match=f"there is no metric '{name}': {why}"):
            metrics[name]


@pytest.mark.parametrize("total", [1, 2, 7, 9])
def test_shares_of_processes_merge_in_order(total: int) -> None:
    values = torch.arange(3 * total).reshape(total, 3)
    parts = [values[Processes(rank, 3).share(total)] for rank in range(3)]
    longest = max(map(len, parts))
    padded = [torch.cat([part, part.new_zeros(longest - len(part), 3)]) for part in parts]
    for rank in range(3):
        assert torch.equal(Processes(rank, 3, lambda _: padded).merge(parts[rank], total), values)


def test_a_batch_of_an_evaluation_says_in_which_split_its_indices_count() -> None:
    context = context_of(View(Linear()), random_images(9), random_images(5, seed=1))
    for split, images in (("train", context.train), ("test", context.test)):
        positions = torch.tensor([4, 0, 3])
        (batch,) = context.batches(split, positions)
        assert batch.split == split
        assert torch.equal(batch.index, positions)
        assert torch.equal(batch.x, floats(images)[positions])
