"""Floors: the losses, known before training, of the best outputs that depend on a given part of each image.

| conditioning             | the best output | squared error            | Bernoulli cross-entropy |
|--------------------------|-----------------|--------------------------|-------------------------|
| nothing                  | E[x]            | Var[x]                   | Σ_d H(E[x_d])           |
| the label                | E[x | y]        | E[Var[x | y]]            | Σ_d E_y H(E[x_d | y])   |
| k linear numbers         | PCA-k           | the other eigenvalues    | –                       |
| everything               | x               | 0                        | Σ_d H(x_d)              |

The formulas hold on the training split, from which the outputs are made; on another split the floor is the loss of
these same outputs there. Where a training draws its images otherwise than each as it is and as often as any other, the
training split is meant as it is drawn: that is where the optima of such a training are. A split enters only through its
moments (`Moments`), which one streaming pass collects.
Pixels are integers 0…255, so that their sums are exact and do not depend on batches or processes.

Source of the first two rows: expand (1/N) Σ_i ‖x_i − x̂‖², a quadratic in x̂ (see docs/why.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor

from encdec.objectives.pca import PCA, Reduce, alone, blocks, mirrored
from encdec.types import Conditioning, Drawing, Shape

if TYPE_CHECKING:
    from encdec.data import Images

SMALLEST_MEAN = 1e-4
"""Means of Bernoulli pixels are kept in [1e-4, 1 − 1e-4] (logits within ±9.2): a pixel that is black in the whole
training split would otherwise cost infinitely much where it is not black on another split."""


@final
@dataclass(frozen=True)
class Moments:
    """All that the floors need of a split, in float64; D pixels, C classes; memory C × D.

    Attributes:
        counts: images of each class, (C,); how often each class is drawn, as so many images, where that is another.
        means: mean image of each class, (C, D), pixels in [0, 1]; zeros where a class has no image.
        squares: E‖x‖² of each class, (C,).
        entropies: E[Σ_d H(x_d)] of each class, in nats per image, (C,).
        energies: squared distance of each class to the span of the first 0, 1, …, k axes of a PCA, mean over its
            images, (C, k + 1); (C, 0) without.
    """

    counts: Tensor
    means: Tensor
    squares: Tensor
    entropies: Tensor
    energies: Tensor

    @classmethod
    def of(
        cls,
        images: Images,
        pca: PCA | None = None,
        rank: int = 0,
        processes: int = 1,
        reduce: Reduce = alone,
        share: Tensor | None = None,
    ) -> Self:
        """One pass over a split, shared by processes.

        Args:
            images: the split.
            pca: whose residuals are wanted.
            rank: which process this is.
            processes: how many there are.
            reduce: adds a tensor up over them.
            share: positions of the images that this process takes, where not the whole split is meant.

        Raises:
            UserError: the split is empty, or its pixels are not 8-bit numbers.
        """
        classes, dim = len(images.classes), math.prod(images.image_shape)
        counts, sums = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dim, dtype=torch.float64)
        histograms = torch.zeros(classes * 256, dtype=torch.float64)
        energies = torch.zeros(classes, 0 if pca is None else pca.axes.shape[1] + 1, dtype=torch.float64)
        for pixels, y in blocks(images, rank, processes, share):
            counts.index_add_(0, y, torch.ones(len(y), dtype=torch.float64))
            sums.index_add_(0, y, pixels.double())
            histograms += torch.bincount((pixels + 256 * y[:, None]).flatten(), minlength=256 * classes)
            if pca is not None:
                centred = pixels.double() / 255 - pca.mean
                parts = [centred.square().sum(1, keepdim=True), -(centred @ pca.axes).square()]
                energies.index_add_(0, y, torch.cat(parts, 1))
        counts, sums, histograms, energies = (reduce(tensor) for tensor in (counts, sums, histograms, energies))
        n, values = counts.clamp(min=1), torch.arange(256, dtype=torch.float64) / 255
        of_classes = histograms.reshape(classes, 256)
        return cls(
            counts=counts,
            means=sums / (255 * n[:, None]),
            squares=of_classes @ values.square() / n,
            entropies=of_classes @ _entropy(values, values) / n,
            energies=energies.cumsum(1) / n[:, None],
        )

    def drawn(self, drawing: Drawing, image_shape: Shape) -> Self:
        """Those of the images as a training draws them; the PCA must be theirs too.

        A mirrored image has the pixels of the image, and their distance to the PCA's axes, which are symmetric or
        antisymmetric: only the means change.
        """
        counts, means = self.counts, self.means
        if drawing.class_balanced:
            there = counts > 0
            counts = there * (counts.sum() / there.sum())
        if drawing.horizontal_flips:
            means = (means + means[:, mirrored(image_shape)]) / 2
        return replace(self, counts=counts, means=means)

    @property
    def mean(self) -> Tensor:
        """The mean image, (D,), pixels in [0, 1]."""
        return self.counts @ self.means / self.counts.sum()

    @property
    def square(self) -> float:
        """E‖x‖²."""
        return float(self.counts @ self.squares / self.counts.sum())

    @property
    def entropy(self) -> float:
        """E[Σ_d H(x_d)], in nats per image."""
        return float(self.counts @ self.entropies / self.counts.sum())

    @property
    def residuals(self) -> tuple[float, ...]:
        """Squared distance to the span of the first 0, 1, …, k axes of a PCA, mean over images; () without."""
        return tuple((self.counts @ self.energies / self.counts.sum()).tolist())


@final
@dataclass(frozen=True)
class Floors:
    """The floors of one split: losses of the training split's optima there.

    Attributes:
        mse: squared error per pixel, by the conditioning of the output.
        bce: Bernoulli cross-entropy in nats per image, by the conditioning of the output.
        pca_mse: squared error per pixel of PCA with `components` components: what that many linear numbers allow,
            a reference for an autoencoder with as many codes; None if it was not computed.
        components: how many.
    """

    mse: Mapping[str, float]
    bce: Mapping[str, float]
    pca_mse: float | None = None
    components: int = 0

    def __str__(self) -> str:
        """A line for each output that has a floor."""
        lines = []
        for of, name in FLOOR_NAMES.items():
            mse = "" if of is Conditioning.IMAGE else f"MSE {self.mse[of]:.5g} per pixel, "
            lines.append(f"{name:<16}{mse}BCE {self.bce[of]:.5g} nats per image")
        if self.pca_mse is not None and self.components:
            lines.append(f"{f'PCA-{self.components}':<16}MSE {self.pca_mse:.5g} per pixel")
        return "\n".join(lines)

    @classmethod
    def of(cls, train: Moments, split: Moments) -> Self:
        """The floors on `split` (which may be the training split itself) of the optima of `train`.

        A class that the training split lacks has no mean there; the mean image stands in for it.
        """
        counts, n, dim = split.counts, split.counts.sum(), train.means.shape[1]
        class_means = torch.where(train.counts[:, None] > 0, train.means, train.mean)
        outputs = {Conditioning.NONE: train.mean.expand_as(class_means), Conditioning.LABEL: class_means}
        mse: dict[str, float] = {Conditioning.IMAGE: 0.0}
        bce: dict[str, float] = {Conditioning.IMAGE: split.entropy}
        for conditioning, output in outputs.items():
            cross = (output * output - 2 * output * split.means).sum(1)
            squares = split.square + float(counts @ cross / n)
            mse[conditioning] = squares / dim if squares > 1e-12 * split.square else 0.0  # below it is rounding
            p = output.clamp(SMALLEST_MEAN, 1 - SMALLEST_MEAN)
            bce[conditioning] = float(counts @ _entropy(split.means, p).sum(1) / n)
        residuals = split.residuals
        return cls(mse, bce, residuals[-1] / dim if residuals else None, max(len(residuals) - 1, 0))

    def explained_variance(self, mse: float) -> float | None:
        """Share of the variance that an output with this MSE explains: 0 = the mean image, 1 = perfect.

        None where all images are the mean image, so that there is no variance to explain.
        """
        variance = self.mse[Conditioning.NONE]
        return 1 - mse / variance if variance > 0 else None

    def beside(self, means: Mapping[str, float], conditioning: Mapping[str, Conditioning | None]) -> dict[str, float]:
        """Scalars to log beside `means`, which are `mse`, `bce` and their variants (`mse_zeros`) by name.

        Args:
            means: `mse` per pixel, `bce` in nats per image; those of a further output carry its suffix (`mse_zeros`).
            conditioning: of each output, by its suffix; None for one that belongs to no image, and has no floor.

        Returns:
            `mse_floor`, `bce_floor`: of the best decoder with this conditioning, with the suffix of an output whose
            conditioning is not the first one's; `mse_gap`, `bce_gap`: how far above it; `explained_variance`. Where
            the floor is not that of the mean image, `mse_mean_image` is the MSE of the mean image; an output
            conditioned on the image has it in place of a floor of 0, which would say nothing, and `mse_pca`.
        """
        scalars = {}
        first = next(iter(conditioning.values()), None)
        for term, floors in (("mse", self.mse), ("bce", self.bce)):
            for suffix, known in conditioning.items():
                name = f"{term}{suffix}"
                if known is None or name not in means:
                    continue
                if term == "bce" or known is not Conditioning.IMAGE:
                    scalars[f"{term}_floor{'' if known is first else suffix}"] = floors[known]
                    scalars[f"{term}_gap{suffix}"] = means[name] - floors[known]
                if term == "bce":
                    continue
                if known is not Conditioning.NONE:
                    scalars["mse_mean_image"] = self.mse[Conditioning.NONE]
                if known is Conditioning.IMAGE and self.pca_mse is not None:
                    scalars["mse_pca"] = self.pca_mse
                explained = self.explained_variance(means[name])
                if explained is not None:
                    scalars[f"explained_variance{suffix}"] = explained
        return scalars

    def verdict(self, mse: float, conditioning: Conditioning) -> str:
        """What the MSE of a trained model means, in plain words."""
        explained = self.explained_variance(mse)
        if explained is None:
            return "there is nothing to explain: all images are the mean image"
        if conditioning is not Conditioning.IMAGE:
            above = mse / self.mse[conditioning] - 1 if self.mse[conditioning] > 0 else math.inf
            if above < -_ON_THE_FLOOR:
                where = self.position(mse, conditioning)
                return f"{where}: does the decoder see more than it is conditioned on ({conditioning})?"
            if above <= _ON_THE_FLOOR:
                return f"collapsed to the {FLOOR_NAMES[conditioning]}: {self.position(mse, conditioning)}"
        if explained <= 0:
            beside = Conditioning.IMAGE if conditioning is Conditioning.LABEL else conditioning
            return f"no better than the mean image: {self.position(mse, beside)}"
        if explained <= _ON_THE_FLOOR:
            return f"hardly better than the mean image: explains {_percent(explained)} of the variance"
        if conditioning is not Conditioning.IMAGE:
            return f"not at the {FLOOR_NAMES[conditioning]} yet: {self.position(mse, conditioning)}"
        words = f"tells images apart: explains {_percent(explained)} of the variance (the mean image: 0 %)"
        if self.pca_mse:
            words += f"; its MSE is {mse / self.pca_mse:.2f} times that of PCA with {self.components} components"
        return words

    def position(self, mse: float, conditioning: Conditioning) -> str:
        """Where an MSE is, relative to its floor or, where it is conditioned on the image, to the mean image's MSE."""
        of, reference = "MSE" if conditioning is Conditioning.IMAGE else "floor", conditioning
        if conditioning is Conditioning.IMAGE:
            reference = Conditioning.NONE
        owner = "the mean image's" if reference is Conditioning.NONE else "the class means'"
        if self.mse[reference] <= 0:
            return f"{owner} {of} is 0"
        above = mse / self.mse[reference] - 1
        return f"{_percent(abs(above))} {'above' if above >= 0 else 'below'} {owner} {of}"


_ON_THE_FLOOR = 0.05  # share of a floor within which a model counts as sitting on it
FLOOR_NAMES = {
    Conditioning.NONE: "mean image",
    Conditioning.LABEL: "class means",
    Conditioning.IMAGE: "pixels' entropy",
}
"""Whose loss a floor is. An output that is conditioned on the image has one of its BCE only."""


def is_baseline(name: str) -> bool:
    """Whether a scalar such as `val/mse_pca` is what another one's loss is to be compared with."""
    return name.endswith(("_pca", "_mean_image"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _entropy(x: Tensor, p: Tensor) -> Tensor:
    """Cross-entropy −x log p − (1 − x) log(1 − p), elementwise, 0 log 0 = 0."""
    return -(torch.xlogy(x, p) + torch.xlogy(1 - x, 1 - p))


def pictures(train: Moments, image_shape: Shape) -> dict[str, Tensor]:
    """The mean image (1, C, H, W), and the class means (classes, C, H, W) where there are classes, in [0, 1]."""
    drawn = {"mean_image": train.mean.float().reshape(1, *image_shape)}
    if len(train.counts) > 1:
        drawn["class_means"] = train.means.float().reshape(-1, *image_shape)
    return drawn
