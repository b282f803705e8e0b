"""The benchmark of the published Parzen likelihood: its formula, and that it goes on where it was."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import parzen


def test_it_is_the_likelihood_of_a_mixture_of_gaussians() -> None:
    x, samples, sigma = torch.rand(7, 12), torch.rand(9, 12), 0.3
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(9)),
        torch.distributions.Independent(torch.distributions.Normal(samples, sigma), 1),
    )
    torch.testing.assert_close(parzen.log_likelihood(x, samples, sigma), mixture.log_prob(x), rtol=1e-4, atol=1e-3)


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["parzen", "--quick", "--every=4", "--batch=100", f"--out={tmp_path / 'parzen.json'}"]
    found = []
    for name, steps in (("whole", (8,)), ("parts", (4, 8))):
        for iterations in steps:
            checkpoint = f"--checkpoint={tmp_path / name}.ckpt"
            monkeypatch.setattr("sys.argv", [*common, f"--iterations={iterations}", checkpoint])
            parzen.main()
        results = json.loads((tmp_path / "parzen.json").read_text())["results"]["found"]
        found.append([{key: value for key, value in one.items() if key != "cpu_seconds"} for one in results])
    assert [one["step"] for one in found[0]] == [4, 8]
    assert found[0] == found[1]
