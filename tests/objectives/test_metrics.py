"""Exact means and what they are means of."""

import numpy as np
import pytest
import torch

from encdec.objectives.metrics import PIXEL_TERMS, RunningMeans
from encdec.types import UserError


def test_pixel_terms_against_numpy() -> None:
    logits, x = torch.randn(4, 3, 5, 6), torch.rand(4, 3, 5, 6)
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), x.double().numpy()
    terms = {name: term(logits, x) for name, term in PIXEL_TERMS.items()}
    np.testing.assert_allclose(terms["mse"].numpy(), ((p - t) ** 2).mean((1, 2, 3)), rtol=1e-5)
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(terms["bce"].numpy(), bce, rtol=1e-5)


def test_running_means_are_exact_over_uneven_batches_and_processes() -> None:
    values = torch.rand(103) * 1e4
    shards = [values[0::2], values[1::2]]
    means = []
    for shard in shards:
        running = RunningMeans()
        for part in shard.split([1, 30, len(shard) - 31]):
            running.update({"a": part, "b": 2 * part}, len(part))
        means.append(running)
    totals = [torch.zeros(3, dtype=torch.float64)]

    def add(tensor: torch.Tensor) -> torch.Tensor:
        totals[0] = totals[0] + tensor
        return totals[0]

    means[0].compute(add)
    result = means[1].compute(add)  # the second process sees the sum of both
    torch.testing.assert_close(result["a"], values.double().mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(result["b"], 2 * values.double().mean(), rtol=1e-9, atol=0)


def test_running_means_are_empty_after_a_reset() -> None:
    running = RunningMeans()
    assert not running
    running.update({"a": torch.ones(2)}, 2)
    assert running
    running.reset()
    assert not running


def test_terms_in_another_order_are_the_same_terms() -> None:
    running = RunningMeans()
    running.update({"a": torch.ones(3), "b": torch.zeros(3)}, 3)
    running.update({"b": torch.zeros(2), "a": torch.ones(2)}, 2)
    assert {name: value.item() for name, value in running.compute(torch.clone).items()} == {"a": 1.0, "b": 0.0}


def test_a_term_of_the_set_counts_as_the_mean_of_its_images() -> None:
    """In batches of uneven size, beside terms of images and alone."""
    values, running, alone = torch.rand(50, dtype=torch.float64), RunningMeans(), RunningMeans()
    for part in values.split([1, 30, 19]):
        running.update({"image": part, "set": part.mean()}, len(part))
        alone.update({"set": part.mean()}, len(part))
    means = running.compute(torch.clone) | {"alone": alone.compute(torch.clone)["set"]}
    for value in means.values():
        torch.testing.assert_close(value, values.mean(), rtol=1e-12, atol=0)


def test_sums_of_a_state_go_on_with_the_same_bits() -> None:
    parts = torch.rand(3, 40)
    whole, before, after = RunningMeans(), RunningMeans(), RunningMeans()
    for running, rows in ((whole, parts), (before, parts[:2])):
        for part in rows:
            running.update({"a": part, "b": part.max()}, 40)
    state = before.state_dict(0, 1, torch.clone)
    assert state["names"] == ["a", "b"]
    after.load_state_dict(state, 0, 1)
    after.update({"a": parts[2], "b": parts[2].max()}, 40)
    assert torch.equal(after.totals(torch.clone), whole.totals(torch.clone))


@pytest.mark.parametrize("names", [("a",), ("a", "c"), ("a", "b", "c")])
def test_terms_that_come_and_go_are_not_averaged_with_others(names: tuple[str, ...]) -> None:
    running = RunningMeans()
    running.update({"a": torch.ones(3), "b": torch.zeros(3)}, 3)
    with pytest.raises(UserError, match=f"terms of a batch are {', '.join(names)}, but those of the batches before"):
        running.update({name: torch.ones(3) for name in names}, 3)


@pytest.mark.parametrize("shapes", [((2,),), ((3, 2),), ((3,), (2,)), ((3,), (3, 1)), ((), (1,))])
def test_terms_that_are_not_one_number_for_each_image_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    """A mean over images of (B, 2) values would be their sum, twice what it should be."""
    terms = {name: torch.ones(shape) for name, shape in zip("ab", shapes, strict=False)}
    with pytest.raises(UserError, match=r"one number for each image, \(B,\)"):
        RunningMeans().update(terms, 3)


def test_one_image_without_a_number_leaves_the_mean_without_one() -> None:
    """It is not left out: the run stops there, with a sentence (see test_errors)."""
    running = RunningMeans()
    running.update({"a": torch.tensor([1.0, torch.nan, 1.0])}, 3)
    assert running.compute(torch.clone)["a"].isnan()
