"""The report as one HTML file that needs no network, and whose only script sorts tables."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from encdec.study.report import document

_FOLDER = files("encdec.study.report") / "page"


def render(report: document.Document) -> str:
    """The page. What it may load is nothing: its style and its script are let in by their hashes, images as data."""
    style, script, template = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "report.html.jinja")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["data_uri"] = _data_uri
    return environment.from_string(template).render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        svg=Markup,
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(picture: document.Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.content).decode()}"
