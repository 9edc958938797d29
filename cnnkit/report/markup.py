"""Build HTML and XML as trees of elements, so that every text and attribute is escaped: class names and paths may contain anything."""

import re
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from cnnkit import messages

#: What may be inside an element: text, elements, any nesting of them; None is left out.
Content = str | Element | Iterable["Content"] | None

#: The characters that are in no XML file, apart from those that `messages.printable` escapes.
_NO_CHARACTERS = re.compile("[\ufffe\uffff]")


def element(tag: str, attributes: dict[str, object] | None = None, *content: Content) -> Element:
    """Make an element.

    Args:
        tag: Its name.
        attributes: None and False leave an attribute out.
        content: Text and elements, in order.
    """
    made = Element(tag)
    for name, value in (attributes or {}).items():
        if value is not None and value is not False:
            made.set(name, clean(_number(value)))
    _append(made, content)
    return made


def clean(text: str) -> str:
    """Replace control characters, line ends, marks that reorder text, and what is not UTF-8 by escapes, as in messages."""
    return _NO_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", messages.printable(text))


def name(text: str, **attributes: object) -> Element:
    """Write a name of the user's, of any length and direction of writing; the whole of it is shown as a tooltip."""
    return element("bdi", {"class": "name", "title": text, **attributes}, text)


def html(root: Element) -> str:
    """Render a page."""
    return f"<!DOCTYPE html>\n{ElementTree.tostring(root, encoding='unicode', method='html')}\n"


def xml(root: Element) -> str:
    """Render an XML file, indented."""
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _number(value: object) -> str:
    """Write a coordinate with at most two decimals, and any other value as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _append(parent: Element, content: Iterable[Content]) -> None:
    for each in content:
        if each is None:
            continue
        if isinstance(each, str):
            _append_text(parent, clean(each))
        elif isinstance(each, Element):
            parent.append(each)
        else:
            _append(parent, each)


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
