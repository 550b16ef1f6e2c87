"""What the page looks like, of servers that are made up: set `BATCHER_SCREENSHOTS` to keep the pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import values_of_servers as made

pytestmark = [pytest.mark.conformance, pytest.mark.slow]

SIZES = [(320, 700), (390, 844), (900, 1100), (1200, 800), (1440, 900), (2560, 1300)]
SERVERS = {"states": made.every_state, "many": made.many, "none": made.values}


@pytest.fixture
def keep(tmp_path):
    """Where pictures go."""
    folder = Path(os.environ.get("BATCHER_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_wider_than_the_screen(show, keep, name, scheme):
    page = show(SERVERS[name](), scheme=scheme)
    for width, height in SIZES:
        page.resize(width, height)
        beyond = page.eval(
            "[...document.querySelectorAll('body *:not(svg *)')]"
            ".filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)"
            ".map((each) => each.outerHTML.slice(0, 200))"
        )
        assert beyond == [], width
        page.shoot(keep / f"{name}-{scheme}-{width}.png")


def test_no_text_lies_over_another(show):
    page = show(made.every_state())
    for width, height in SIZES:
        page.resize(width, height)
        overlapping = page.eval(
            """(() => {
              const texts = [...document.querySelectorAll('h1, h2, p, .big, .note, .name, time, li > span:last-child, dt, dd')]
                .filter((each) => each.offsetParent && each.innerText.trim());
              const boxes = texts.map((each) => {
                const range = document.createRange();
                range.selectNodeContents(each);
                const seen = each.getBoundingClientRect(); // a long name is cut
                return [each, [...range.getClientRects()].filter((box) => box.bottom <= seen.bottom + 4)];
              });
              const found = [];
              boxes.forEach(([one, ones], place) => boxes.slice(place + 1).forEach(([other, others]) => {
                if (one.contains(other) || other.contains(one)) return;
                for (const a of ones) for (const b of others) {
                  const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                  const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                  if (wide > 1 && high > 4) found.push(`${one.innerText} / ${other.innerText}`);
                }
              }));
              return found;
            })()"""
        )
        assert overlapping == [], width


def test_the_worst_model_is_first(show):
    page = show(made.many())
    names = page.eval(
        "[...document.querySelectorAll('.models .name')].map((each) => each.textContent)"
    )
    assert (len(names), names[:2]) == (50, ["model-33", "model-0"])


def test_markup_in_a_text_is_text(show):
    page = show(made.markup())
    assert (
        page.eval("document.querySelectorAll('img, b:not(.meter b):not(.problems b)').length") == 0
    )
    assert page.eval("document.title") == f"✕ {made.MARKUP} · batcher"
    texts = "[...document.querySelectorAll('h1, .name, h3, .changes span, .note')].map((each) => each.textContent)"
    assert sum(made.MARKUP in text for text in page.eval(texts)) >= 6


def test_a_level_is_told_by_a_mark_and_a_word(show):
    page = show(made.every_state())
    head = "document.querySelector('[data-model=reranker] th')"
    assert page.eval(f"{head}.innerText").split()[1] == "critical:"
    mark = f"getComputedStyle({head}.querySelector('.mark'), '::before').content"
    assert page.eval(mark) == '"✕"'
    assert (
        page.eval("document.querySelector('.changes .mark').getAttribute('aria-label')")
        == "warning"
    )


def test_what_is_not_known_is_no_0(show):
    page = show(made.every_state())
    row = "document.querySelector('[data-model=failed-model]')"
    cells = page.eval(f"[...{row}.querySelectorAll('.big')].map((each) => each.textContent)")
    assert cells == [*["\u2013"] * 4, "no answers"]
    assert "failed: cannot load model.onnx" in page.eval(f"{row}.innerText")


def contrast(one, other):
    def luminance(color):
        channels = [int(part) / 255 for part in color]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable(show, scheme):
    """A contrast of 4.5 at least, as WCAG asks of body text."""
    page = show(made.every_state(), scheme=scheme)
    found = page.eval(
        """[...document.querySelectorAll('body *')]
          .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
          .filter((each) => each.offsetParent && !each.closest('script, style'))
          .map((each) => {
            let behind = each;
            while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
            const read = (color) => color.match(/[0-9.]+/g).slice(0, 3).map(Number);
            return [each.textContent.slice(0, 40), read(getComputedStyle(each).color),
                    read(getComputedStyle(behind).backgroundColor)];
          })"""
    )
    assert len(found) > 40
    assert {text: contrast(a, b) for text, a, b in found if contrast(a, b) < 4.5} == {}
