"""Per-image latents under a row-wise Adam, and permutations; alone and in two processes."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from encdec.paradigms.codes import LatentTable, Permutation
from encdec.types import UserError
from tests import killing

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-6}


def target(index: Tensor, dim: int = 3) -> Tensor:
    """What image i pulls its row to."""
    return torch.stack([(index * (k + 2.0)).sin() for k in range(dim)], dim=1)


def train(table: LatentTable, index: Tensor) -> None:
    """One step of ½‖row − target‖⁴, a mean over the batch; its gradients differ in scale."""
    loss = 0.5 * (table.rows(index) - target(index)).square().sum(1).square().mean()
    loss.backward()
    table.step()


def table(rows: int = 10, start: Tensor | None = None) -> LatentTable:
    return LatentTable(rows, 3, **SETTINGS, start=torch.ones(rows, 3) if start is None else start)  # type: ignore[arg-type]


def test_a_full_batch_is_adams_step() -> None:
    one, index = table(), torch.arange(10)
    parameter = torch.ones(10, 3, requires_grad=True)
    adam = torch.optim.Adam([parameter], **SETTINGS)  # type: ignore[arg-type]
    for _ in range(50):
        train(one, index.flip(0))
        adam.zero_grad()
        (0.5 * (parameter - target(index)).square().sum(1).square().sum()).backward()
        adam.step()
    torch.testing.assert_close(one.values, parameter.detach(), rtol=1e-5, atol=1e-6)
    assert one.steps.tolist() == [50] * 10


def test_each_row_is_moved_as_by_an_adam_of_its_own() -> None:
    torch.manual_seed(0)
    together, batches = table(), [torch.randperm(10)[:4] for _ in range(30)]
    for index in batches:
        before = together.values.clone()
        train(together, index)
        absent = torch.ones(10, dtype=torch.bool).index_fill(0, index, False)
        assert torch.equal(together.values[absent], before[absent]), "rows that are not in the batch do not move"
    for row in range(10):
        alone = torch.ones(1, 3, requires_grad=True)
        adam = torch.optim.Adam([alone], **SETTINGS)  # type: ignore[arg-type]
        for _ in range(sum(row in index for index in batches)):
            adam.zero_grad()
            (0.5 * (alone - target(torch.tensor([row]))).square().sum(1).square().sum()).backward()
            adam.step()
        torch.testing.assert_close(together.values[row], alone[0].detach(), rtol=1e-5, atol=1e-6)


def test_rows_are_leaves_only_in_training() -> None:
    one, index = table(), torch.tensor([3, 1])
    assert one.rows(index).requires_grad
    with torch.no_grad():
        assert not one.rows(index).requires_grad
    assert not one.eval().rows(index).requires_grad
    assert torch.equal(one.rows(index), one.values[index])


def test_rows_without_a_gradient_are_forgotten_and_a_step_without_rows_does_nothing() -> None:
    one, other = table(), table()
    one.rows(torch.arange(5))
    for each in (one, other):
        train(each, torch.tensor([7]))
        each.step()
    assert torch.equal(one.values, other.values)
    assert one.steps.sum() == 1


def test_accumulated_batches_are_one_step_and_a_row_in_several_gets_their_sum() -> None:
    one, parts = table(), [torch.tensor([0, 1]), torch.tensor([2, 1])]
    for index in parts:
        (one.rows(index) * (index + 1.0)[:, None]).sum(1).mean().backward()
    one.step(scale=0.5)
    expected = torch.tensor([0.5, 2, 1.5])  # half of 1, 2 + 2, 3
    torch.testing.assert_close(one.first_moment[:3, 0], 0.2 * expected)
    torch.testing.assert_close(one.second_moment[:3, 0], 0.01 * expected.square())
    assert one.steps.tolist() == [1, 1, 1, *[0] * 7]


def test_a_gradient_that_is_not_finite_moves_no_row_but_leaves_the_others_alone() -> None:
    one, other = table(), table()
    train(one, torch.arange(4))
    train(other, torch.arange(4))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    weights = torch.tensor([1.0, math.inf, 1.0, math.nan])
    (one.rows(torch.arange(4)) * weights[:, None]).sum(1).mean().backward()
    one.step()
    other.rows(torch.tensor([0, 2])).sum(1).mean().backward()
    other.step()
    for name, value in one.state_dict().items():
        assert torch.equal(value[[1, 3]], before[name][[1, 3]])
        assert torch.equal(value[[0, 2]], other.state_dict()[name][[0, 2]])


def test_moved_rows_are_projected_and_no_others() -> None:
    seen = []

    def project(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows.clamp(-1, 1)

    one = LatentTable(5, 2, lr=10.0, start=torch.full((5, 2), 3.0), project=project)
    assert one.values.max() == 1
    (-one.rows(torch.tensor([4, 2]))).sum().backward()
    one.step()
    assert one.values.max() == 1
    assert seen == [5, 2]


def test_it_resumes_exactly() -> None:
    torch.manual_seed(0)
    batches = [torch.randperm(10)[:3] for _ in range(12)]
    through, before, after = table(), table(), table(start=torch.zeros(10, 3))
    for index in batches:
        train(through, index)
    for index in batches[:5]:
        train(before, index)
    after.load_state_dict({name: value.clone() for name, value in before.state_dict().items()})
    for index in batches[5:]:
        train(after, index)
    assert not list(through.parameters())
    for name, value in through.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name


def test_what_cannot_be_a_table_is_refused() -> None:
    with pytest.raises(UserError, match="10 rows of 3 latents can't start from values of shape"):
        table(start=torch.zeros(3, 10))
    state = table().state_dict()
    state["steps"] = -state["steps"] - 1
    with pytest.raises(UserError, match="steps has negative numbers"):
        table().load_state_dict(state)


def test_a_permutation_stays_one() -> None:
    torch.manual_seed(0)
    permutation = Permutation(8)
    permutation.assign(torch.tensor([2]), torch.tensor([5]))
    assert permutation.of.tolist() == [0, 1, 5, 3, 4, 2, 6, 7], "one position and one number: a swap"
    for _ in range(200):
        index, to = torch.randperm(8)[:3], torch.randperm(8)[:3]
        permutation.assign(index, to)
        assert torch.equal(permutation[index], to)
        assert permutation.of.sort().values.tolist() == list(range(8))
    before = permutation.of.clone()
    index = torch.tensor([6, 0, 3])
    permutation.assign(index, permutation[index].roll(1))
    rest = torch.tensor([1, 2, 4, 5, 7])
    assert torch.equal(permutation[rest], before[rest]), "within a batch, no other position changes"
    loaded = Permutation(8)
    loaded.load_state_dict(permutation.state_dict())
    assert torch.equal(loaded.of, permutation.of)


def test_what_cannot_be_a_permutation_is_refused() -> None:
    permutation = Permutation(4)
    for index, to, words in (([0, 0], [1, 2], "position twice"), ([0, 1], [2, 2], "number twice"), ([0], [4], "0 to 3"),
                             ([-1], [0], "0 to 3"), ([0, 1], [2], "1 numbers to 2 positions")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            permutation.assign(torch.tensor(index), torch.tensor(to))
        assert permutation.of.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="not a permutation"):
        permutation.load_state_dict({"of": torch.tensor([0, 1, 1, 3])})


def in_processes(rank: int, folder: str) -> None:
    """Every process steps on its half of each batch, and writes what it ends with."""
    dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/store")

    def gather(tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    one, permutation = table(), Permutation(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        index = torch.randperm(10, generator=generator)[:6][rank::2]
        (0.5 * (one.rows(index) - target(index)).square().sum(1).square().mean()).backward()
        one.step(gather=gather)
        permutation.assign(index, permutation[index].roll(1), gather)
    torch.save({**one.state_dict(), **permutation.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    killing.together(tmp_path, in_processes, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    one, generator = table(), torch.Generator().manual_seed(0)
    for _ in range(20):
        train(one, torch.randperm(10, generator=generator)[:6])
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"the processes disagree about {name}"
    for name, value in one.state_dict().items():
        torch.testing.assert_close(first[name], value)
    assert first["of"].sort().values.tolist() == list(range(10))
    assert first["of"].tolist() != list(range(10))


def test_a_permutation_is_permuted_as_the_first_process_says() -> None:
    permutation = Permutation(4)
    permutation.assign(torch.tensor([0]), torch.tensor([3]))
    first, second = torch.tensor([1, 2, 0, 3]), torch.tensor([0, 1, 2, 3])
    permutation.permute(second, gather=lambda owner: torch.cat([first, owner]))
    assert permutation.of.tolist() == [1, 2, 3, 0]
    for wrong in (torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 2])):
        with pytest.raises(UserError, match="permute by what is none"):
            permutation.permute(wrong)
