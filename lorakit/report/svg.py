"""A matplotlib figure as SVG inside a page: its colours and fonts, a title and a description.

A figure is drawn in stand-in colours, each of which becomes a CSS variable, so that one drawing
serves light, dark and print. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# A plot is as wide as a phone with a little to spare: there it shrinks to 80 % at most, and beside
# another one on a desktop it keeps its size.
WIDTH = 440  # px
TEXT_SIZE = 12.5  # px
RUNS = tuple(f"run-{number}" for number in range(1, 9))  # one for each run of a comparison
# CSS variables of page.css: what a plot may be coloured with.
NAMES = ("ink", "muted", "line", "base", "tuned", "better", "worse", "same", "paper", *RUNS)
INKS = {name: f"#0000{number:02x}" for number, name in enumerate(NAMES, 1)}

_NAMESPACE = re.compile(r"\{[^}]*\}")
_COLOUR = re.compile(r"#0000[0-9a-f]{2}\b")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_VARIABLES = {colour: f"var(--{name})" for name, colour in INKS.items()}


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, figures are made and drawn in the page's style; matplotlib's own stays as it was."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "lorakit",
        "text.parse_math": False,  # a name with two dollar signs is no formula
        "font.size": TEXT_SIZE,
        "axes.titlesize": TEXT_SIZE,
        "axes.labelsize": TEXT_SIZE,
        "xtick.labelsize": TEXT_SIZE - 1,
        "ytick.labelsize": TEXT_SIZE - 1,
        "text.color": INKS["ink"],
        "axes.labelcolor": INKS["muted"],
        "axes.edgecolor": INKS["line"],
        "xtick.color": INKS["line"],
        "ytick.color": INKS["line"],
        "xtick.labelcolor": INKS["muted"],
        "ytick.labelcolor": INKS["muted"],
        "grid.color": INKS["line"],
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(style):
        yield


def new_figure(height: int) -> Figure:
    """An empty figure of the plots' width; `height` in px. Only inside `drawing`."""
    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72)


def inline_svg(figure: Figure, *, name: str, title: str, description: str) -> Markup:
    """The figure as an `<svg>` element. Only inside `drawing`.

    Args:
        name: makes its ids differ from those of other plots on the page.
        title, description: what is read out to those who cannot see it.
    """
    written = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(written.getvalue())
    used = set(_references(root))
    for element in root.iter():
        _make_part_of_page(element, used, name)
    drawn = [child for child in root if child.tag == "g" or _holds_clip_paths(child)]
    root[:] = [_text("title", f"{name}-title", title), _text("desc", f"{name}-desc", description)]
    root.extend(drawn)
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
        }
    )
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if _NAMESPACE.sub("", key) == "href":
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)


def _make_part_of_page(element: ElementTree.Element, used: set[str], name: str) -> None:
    """Names without namespaces, ids of its own, the page's colours and fonts."""
    element.tag = _NAMESPACE.sub("", element.tag)
    attributes = {_NAMESPACE.sub("", key): value for key, value in element.attrib.items()}
    own_id = attributes.pop("id", None)
    if own_id in used:
        attributes["id"] = f"{name}-{own_id}"
    if "href" in attributes:
        attributes["href"] = f"#{name}-{attributes['href'].removeprefix('#')}"
    for key, value in attributes.items():
        attributes[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
    if "style" in attributes:
        attributes["style"] = _page_style(attributes["style"])
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib.clear()
    element.attrib.update(attributes)
    if element.tag != "text":
        element.text = None
    element.tail = None


def _page_style(style: str) -> str:
    kept = [part for part in style.split("; ") if not part.startswith("font-family")]
    return _COLOUR.sub(lambda found: _VARIABLES[found[0]], ";".join(kept)).replace(": ", ":")


def _holds_clip_paths(element: ElementTree.Element) -> bool:
    return element.tag == "defs" and element.find("clipPath") is not None


def _text(tag: str, own_id: str, text: str) -> ElementTree.Element:
    element = ElementTree.Element(tag, {"id": own_id})
    element.text = text
    return element
