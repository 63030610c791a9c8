"""The style sheet: contrast in light and dark, and one dark for two ways into it."""

from __future__ import annotations

import re

import pytest

from lorakit.report.render import TEMPLATES
from lorakit.report.svg import NAMES

CSS = (TEMPLATES / "page.css").read_text("utf-8")
BLOCKS = [
    dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root[^{]*\{([^}]*)\}", CSS)
]
THEMES = {"light": BLOCKS[0], "dark": BLOCKS[1]}
TEXT = ("ink", "muted", "better", "worse", "same", "tuned", *(n for n in NAMES if "run-" in n))
LINES = ("base", "tuned", "better", "worse", "same", "muted", "ink")


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_dark_is_the_same_by_the_system_and_by_the_button() -> None:
    assert len(BLOCKS) == 3
    assert BLOCKS[1] == BLOCKS[2]
    assert BLOCKS[0].keys() == BLOCKS[1].keys() >= set(NAMES)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_text_has_the_contrast_of_wcag_aa(theme: str, ground: str) -> None:
    colours = THEMES[theme]
    for name in TEXT:
        assert contrast(colours[name], colours[ground]) >= 4.5, name
    assert contrast(colours["ink"], colours["tint"]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_what_is_drawn_has_the_contrast_of_graphics(theme: str) -> None:
    colours = THEMES[theme]
    for name in LINES:
        assert contrast(colours[name], colours["paper"]) >= 3, name


def test_every_variable_is_defined() -> None:
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS))
    assert used <= BLOCKS[0].keys()
