"""What `test` prints: five answers with their errors, baselines and units, in 80 columns."""

import pytest

from encdec.callbacks.evaluation_output import print_answers, print_details
from encdec.evaluation.questions import QUESTIONS
from encdec.evaluation.results import Metrics

Capture = pytest.CaptureFixture[str]
LONG = "nats per image, Bernoulli, fitted posterior, K = 64; 1,000 test images, corrected by all 10,000"


def metrics() -> Metrics:
    """One metric of each question, and others."""
    found = Metrics()
    found.add("loss", 242.5, "per image")
    found.add("elbo", -242.5, "per image")
    found.add("mse", 0.0123456, "per pixel", standard_error=0.0001, reference=0.086, reference_name="mean image")
    found.add("nll_bound", 242.81, LONG, standard_error=0.76)
    found.add("frechet_classifier", 109.0, "squared distance", reference=0.41, reference_name="10,000 real images")
    found.add("recall_classifier", 0.25, "share of test images", reference=0.93, reference_name="real " * 30)
    found.add("memorised", 0.223, "share of samples", reference=0.27, reference_name="2,000 held-out images")
    found.add("target_near_random", 0.01, "cosine")
    found.add("target_near_encoder", 0.79, "cosine")
    return found


def test_every_question_has_its_answer_in_80_columns(capsys: Capture) -> None:
    print_answers(metrics())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if not line.startswith(" ")] == [f"{q.name}: {q.asks}" for q in QUESTIONS]
    (mse,) = [line for line in lines if line.startswith("  mse ")]
    assert mse.split() == ["mse", "0.012346", "±", "0.0001", "mean", "image:", "0.086"]
    assert lines[lines.index(mse) + 1].strip() == "per pixel"
    text = " ".join(line.strip() for line in lines)
    assert LONG in text, "the unit is whole"
    assert "memorised 0.223 2,000 held-out images: 0.27" in " ".join(text.split())
    assert "target_near_encoder" in text, "what the model was trained with"
    assert "target_near_random" not in text


def test_the_longest_value_stands_apart_from_its_baseline(capsys: Capture) -> None:
    found = Metrics()
    found.add(
        "target_near_random",
        -0.0062584,
        "cosine",
        standard_error=0.0038,
        reference=0.00082339,
        reference_name="all pairs",
    )
    print_answers(found)
    assert "target_near_random    -0.0062584 ± 0.0038 all pairs: 0.00082339\n" in capsys.readouterr().out


def test_an_answer_that_is_not_defined_is_a_sentence(capsys: Capture) -> None:
    found = metrics()
    del found.values["recall_classifier"]
    found.undefined |= {"recall_classifier": "it needs at least 6 samples", "path_ratio": "no line leads anywhere"}
    found.doubtful |= {"nll_bound": "a loose bound: the effective sample size is 1.3", "nll_prior": "loose"}
    print_answers(found)
    out = capsys.readouterr().out
    assert "recall_classifier is not defined here: it needs at least 6 samples\n" in out
    assert "nll_bound is to be read with care: a loose bound" in out
    assert "path_ratio" not in out
    assert "nll_prior" not in out
    print_details(found)
    out = capsys.readouterr().out
    assert "path_ratio is not defined here: no line leads anywhere" in out
    assert "nll_prior is to be read with care: loose" in out


def test_details_show_all_but_what_repeats_another(capsys: Capture) -> None:
    found = metrics()
    print_details(found)
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in found.values if name != "elbo")
    assert "elbo" not in out, "it is minus the loss"
    found.add("elbo", -200.0, "per image")
    print_details(found)
    assert "elbo" in capsys.readouterr().out, "as with β = 4"


def test_questions_are_answered_by_the_first_headline_that_is_there() -> None:
    latent = QUESTIONS[-1]
    assert latent.answer({"target_near_random", "target_near_encoder"}) == "target_near_encoder"
    assert latent.answer({"mse"}) is None
