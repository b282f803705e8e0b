"""A plain DataLoader of tensors: trained on as on a data module, with a sentence on what is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import encdec
from encdec.data import Digits
from encdec.paradigms import AE, VAE, ConditionalDecoder, EncoderlessVAE, Paradigm
from encdec.plugins import load
from encdec.testing.small import quiet_trainer, small_trainer
from encdec.types import UserError

Capture = pytest.CaptureFixture[str]
pytestmark = [  # Lightning's advice, and its own
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]


def images(split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    data = Digits()
    return torch.cat([batch.x for batch in data._loader(split)]), data.splits[split].labels


def loader(*tensors: torch.Tensor, **settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=128, **settings)


def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(image_shape=(1, 8, 8), num_classes=10, latent_dim=4)


def fit(model: Paradigm, train: Any, val: Any = None, **settings: Any) -> dict[str, float]:
    with quiet_trainer():
        trainer = small_trainer(max_epochs=2, **settings)
        trainer.fit(model, train, val)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_it_is_trained_as_on_a_data_module_in_the_same_order(capsys: Capture) -> None:
    whole, plain, labelled = vae(), vae(), vae()
    data = Digits(batch_size=128)
    order = [torch.cat([batch.index for batch in data.train_dataloader()]) for _ in range(2)]
    fit(whole, Digits(batch_size=128))
    x, y = images()
    capsys.readouterr()

    class InOrder(torch.utils.data.Sampler[int]):
        def __init__(self) -> None:
            self.epoch = -1

        def __len__(self) -> int:
            return len(x)

        def __iter__(self) -> Any:
            self.epoch += 1
            return iter(order[self.epoch % 2].tolist())

    fit(plain, DataLoader(x, batch_size=128, sampler=InOrder()))  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert err.startswith("encdec: VAE is trained on a plain DataLoader, without what a data module of encdec adds: fl")
    assert len(err.splitlines()) == 1, err
    fit(labelled, loader(x, y, sampler=InOrder()))
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, plain.state_dict()[name]), name
        assert torch.equal(weights, labelled.state_dict()[name]), name


def test_validations_and_tests_measure_what_a_data_module_does(tmp_path: Path) -> None:
    model, x, y = vae().eval(), *images("test")
    with quiet_trainer():
        trainer = small_trainer()
        (of_data,) = trainer.test(model, Digits(batch_size=16), verbose=False)
        (of_loader,) = trainer.test(model, loader(x, y), verbose=False)
        (validated,) = trainer.validate(model, loader(x), verbose=False)
        predicted = trainer.predict(model, loader(x))
    for name, value in of_loader.items():
        assert value == pytest.approx(of_data[name], rel=1e-5), name
        assert validated[name.replace("test/", "val/")] == pytest.approx(value, rel=1e-6)
    assert predicted is not None
    z = torch.cat([part["z"] for part in predicted])  # type: ignore[call-overload]
    torch.testing.assert_close(z, model.encode(x))
    path = tmp_path / "model.ckpt"
    trained = vae()
    with quiet_trainer():
        trainer = small_trainer(max_epochs=1)
        trainer.fit(trained, loader(*images(), shuffle=True), loader(x, y))
        trainer.save_checkpoint(path)
    assert torch.equal(encdec.load(path).encode(x), trained.encode(x))
    assert trainer.callback_metrics["val/loss"] > 0


def test_an_ex_post_density_says_that_it_is_not_fitted(capsys: Capture) -> None:
    model = AE(image_shape=(1, 8, 8), latent_dim=3)
    fit(model, loader(images()[0]))
    err = capsys.readouterr().err
    assert "the ex-post prior of AE is not fitted" in err
    assert model.ex_post is not None
    assert int(model.ex_post.fitted) == 0


X = torch.rand(256, 1, 8, 8)
WRONG: dict[str, tuple[type[Paradigm], dict[str, Any], Any, str]] = {
    "0 to 255": (VAE, {}, loader(255 * X), r"VAE: a batch of the DataLoader: .* they go from 0.* to 25\d"),
    "8 bits": (VAE, {}, loader((255 * X).byte()), "they are uint8; images / 255"),
    "another shape": (VAE, {}, loader(X[:, :, :7]), r"have the shape \(128, 1, 7, 8\), but it must be \(N, 1, 8, 8\)"),
    "dictionaries": (VAE, {}, DataLoader([{"x": X[0]}]), "gives a dict of other things"),  # type: ignore[arg-type]
    "three tensors": (VAE, {}, loader(X, X, X), "gives a list of other things"),
    "labels outside": (VAE, {"num_classes": 3}, loader(X, torch.full((256,), 3)), "labels go from 3 to 3"),
    "labels of numbers": (VAE, {"num_classes": 3}, loader(X, X[:, 0, 0, 0]), r"labels are float32 \(128,\)"),
    "no labels": (ConditionalDecoder, {"num_classes": 3}, loader(X), "reads labels, but the DataLoader gives images"),
    "stored latents": (EncoderlessVAE, {"latents": "fixed"}, loader(X), "has a latent for each training image, but"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_trained_on_is_one_sentence(name: str) -> None:
    cls, settings, given, match = WRONG[name]
    with pytest.raises(UserError, match=match) as error:
        fit(cls(image_shape=(1, 8, 8), **settings), given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["GLO", "Assignment", "AutoDecoder", "DGD"])
def test_paradigms_that_store_something_for_each_image_are_refused(name: str) -> None:
    load()
    (cls,) = [one for one in encdec.plugins.subclasses(Paradigm) if one.__name__ == name]
    model = cls(image_shape=(1, 8, 8), num_train=256)
    with pytest.raises(UserError, match=r"derive the data from encdec\.data\.DataModule"):
        fit(model, loader(X))
