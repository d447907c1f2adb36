from __future__ import annotations

import pytest

from tavt_kit.reports.markup import el, printable
from tests.reports.pages import Page

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "' onclick='x", "&lt;b&gt;", "</style>", "]]>"]


@pytest.mark.parametrize("text", NASTY)
def test_text_and_attributes_come_back_as_they_were(text: str) -> None:
    page = Page(str(el("p", text, title=text, data_key=text)))
    assert page.tags == [("p", {"title": text, "data-key": text})]
    assert "".join(page.texts).strip() == text


@pytest.mark.parametrize(
    "link", ["https://example.org/a.png", "//example.org", "javascript:alert(1)", "a.png", "data:text/html,x"]
)
@pytest.mark.parametrize("name", ["href", "src"])
def test_nothing_outside_the_file_can_be_linked(name: str, link: str) -> None:
    with pytest.raises(ValueError, match="links nothing outside"):
        el("a", **{name: link})


@pytest.mark.parametrize("name", ["onclick", "onload", "ONERROR", "style", "x y", "a="])
def test_handlers_and_styles_are_no_attributes(name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        el("p", **{name: "x"})


def test_links_within_the_file_are_welcome() -> None:
    assert str(el("use", href="#image-0")) == '<use href="#image-0"></use>'
    assert 'href="data:image/jpeg;base64,AA=="' in str(el("image", href="data:image/jpeg;base64,AA=="))


def test_control_and_turning_characters_are_replaced() -> None:
    assert printable("a\x00b\u202ec\ud800\u00a0d\ne") == "a\ufffdb\ufffdc\ufffd\u00a0d\ne"


def test_left_out_and_bare_attributes() -> None:
    assert str(el("b", None, "x", id=None, hidden=True, lang=False, x=1.5)) == '<b hidden x="1.5">x</b>'
