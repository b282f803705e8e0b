"""A run's TensorBoard in a real browser, tab by tab."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import killing
from tests.browser import CHROMIUM, DRIVER, MISSING, Browser
from tests.conftest import new_project
from tests.tensorboards import HEIGHT, LEGENDS, WIDTH, Tabs, served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)]

RUN = "vae_noenc/version_0"
LINES = [RUN, f"{RUN}/floor", f"{RUN}/gap"]


@pytest.fixture(scope="module")
def tabs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tabs]:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        new_project(folder, patch)
    code, output = killing.run(
        folder, "fit", "--config=configs/vae_noenc.yaml", "--trainer.max_epochs=12", "--images.every_n_epochs=5"
    )
    assert code == 0, output
    with served(folder / "lightning_logs") as address, Browser(folder / "browser") as browser:
        yield Tabs(browser, address)


def test_it_opens_on_the_metrics_with_their_floors_in_three_colors(tabs: Tabs, tmp_path: Path) -> None:
    charts = tabs.open("", LEGENDS, lambda charts: len(charts) >= 3 and all(lines for _, lines in charts[:3]))
    assert [tag for tag, _ in charts][:3] == ["Overview/bce", "Overview/loss", "Overview/mse"]
    for tag in ("Overview/bce", "Overview/mse"):
        lines = dict(charts)[tag]
        assert [name for name, _ in lines] == LINES
        assert len({color for _, color in lines}) == 3
    screenshot = tmp_path / "tensorboard.png"
    screenshot.write_bytes(tabs.image())
    with Image.open(screenshot) as image:
        assert image.width == WIDTH
        assert image.height > HEIGHT - 200  # the browser's own bars
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100, "it is not blank"


def test_the_first_charts_of_the_older_tab_are_the_same(tabs: Tabs) -> None:
    found = tabs.open("#scalars", "return all('tf-scalar-card').map(e => e.tag)", lambda tags: len(tags) >= 3)
    assert found[:3] == ["Overview/bce", "Overview/loss", "Overview/mse"]


def test_custom_scalars_begin_with_the_floors(tabs: Tabs) -> None:
    script = """
        return all('tf-custom-scalar-multi-line-chart-card').slice(0, 2).map(card => [
            card.title,
            all('.match-list-entry', card.shadowRoot).map(entry => [
                entry.innerText.trim(), getComputedStyle(entry.querySelector('span')).color])])"""
    found = tabs.open("#custom_scalars", script, lambda cards: len(cards) == 2 and all(lines for _, lines in cards))
    title, lines = found[0]
    assert title == "MSE (per pixel), its floor and the gap"
    names = sorted(text.rpartition("Overview/mse (")[2] for text, _ in lines)
    assert names == [f"{name})" for name in LINES]
    assert len({color for _, color in lines}) == 3


def test_small_images_are_enlarged_without_blur(tabs: Tabs) -> None:
    script = """
        return all('img').filter(e => e.getRootNode().host && e.getRootNode().host.tagName == 'TF-IMAGE-LOADER')
            .map(e => [e.naturalWidth, e.naturalHeight])"""
    sizes = tabs.open("#images", script, lambda sizes: len(sizes) >= 4 and all(width for width, _ in sizes))
    assert all(height >= 256 for _, height in sizes)


def test_the_text_says_what_the_run_is_and_what_came_out(tabs: Tabs) -> None:
    script = "return all('#markdown').map(e => e.innerText).filter(text => text)"
    texts: Any = tabs.open("#text", script, lambda texts: len(texts) == 2)
    about, verdict = texts
    assert "EncoderlessVAE, 49,728 parameters, on Digits: 1,294 images of 1×8×8 to train" in about
    assert "…/gap: the metric less its floor." in about
    assert "best: val/mse – " in verdict
    assert "the mean image's floor" in verdict
    assert "val/bce" in verdict, "the table of metrics"


def test_five_columns_of_settings_and_the_metrics_are_ticked(tabs: Tabs) -> None:
    script = "return all('.hparam-checkbox, .metric-checkbox').map(e => [e.innerText.trim(), e.checked])"
    boxes = tabs.open("#hparams", script, lambda boxes: len(boxes) > 10)
    settings = ["data", "model", "model/latent_dim", "model/optimizer/lr", "parameters"]
    assert [name for name, is_ticked in boxes if is_ticked] == [
        *settings, "val/loss", "val/mse", "val/bce", "val/explained_variance"
    ]  # fmt: skip
    assert len(boxes) < 25
