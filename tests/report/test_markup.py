"""Trees of elements: whatever is put into them is text, in HTML and in XML."""

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from cnnkit.report.markup import element, html, name, xml

HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onload='alert(1)' x=\"",
    "</style></title><!-- ",
    "&lt;b&gt; &amp;amp;",
    "]]>",
    "x" * 300,
    "日本語 עברית 🐱",
]


class Reader(HTMLParser):
    """Collects tags, attributes and text as a browser reads them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_text_and_attributes_stay_text(text):
    """Read back, they are the same, and there is no other element."""
    reader = Reader()
    reader.feed(html(element("p", {"title": text}, "a", name(text), "b")))
    assert reader.tags == ["p", "bdi"]
    assert reader.attributes == [{"title": text}, {"class": "name", "title": text}]
    assert reader.text.strip() == f"a{text}b"
    assert ElementTree.fromstring(xml(element("p", {"title": text}, text)).partition("\n")[2]).text == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\0", r"\x00"),
        ("a\u202eb", r"a\u202eb"),
        ("\ufffe", r"\ufffe"),
        ("\udcff", r"\xff"),
    ],
)
def test_characters_that_are_no_text_are_escaped(text, shown):
    """Line ends, control characters, marks that reorder text, and bytes that are not UTF-8: XML cannot hold most of them."""
    assert ElementTree.fromstring(xml(element("p", {"title": text}, text)).partition("\n")[2]).attrib == {
        "title": shown
    }
    assert f">{shown}<" in html(element("p", {}, text))


def test_numbers_have_two_decimals():
    assert (
        html(element("rect", {"x": 1.23456, "y": 2.0, "width": 3, "class": None, "hidden": False}))
        .strip()
        .endswith('<rect x="1.23" y="2" width="3"></rect>')
    )
