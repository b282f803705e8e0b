"""A moving average of weights is the sum that its formula says."""

import pytest
import torch
from torch import nn

from encdec.paradigms.averages import moving_average
from encdec.types import UserError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_it_is_the_weighted_sum_of_all_weights_and_resumes() -> None:
    torch.manual_seed(0)
    decay, net = 0.8, network()
    average, seen = moving_average(net, decay), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(6):
        net(torch.randn(5, 3) + step).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(net)
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        if step == 3:  # as after a checkpoint
            state = {name: value.clone() for name, value in average.state_dict().items()}
            average = moving_average(network(), decay)
            average.load_state_dict(state)
    weights = [decay**5, *((1 - decay) * decay ** (5 - t) for t in range(1, 6))]  # the first call copies
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            expected = sum(weight * one[name] for weight, one in zip(weights, seen, strict=True))
            torch.testing.assert_close(value, expected)
    assert average.module.state_dict()["1.running_mean"].abs().min() > 0


def test_it_is_no_part_of_what_is_optimized_and_gives_what_its_weights_give() -> None:
    net = network().eval()
    average = moving_average(net, 0.5).eval()
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    x = torch.randn(5, 3)
    assert torch.equal(average(x), net(x))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert not torch.equal(average(x), net(x))


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match="decay of a moving average"):
        moving_average(nn.Linear(1, 1), decay)
