"""The sheet of suspected labels: names of classes are complete as far as there is room."""

import pytest
from PIL import Image

from cnnkit.audit import label_sheet
from cnnkit.audit.label_errors import DoubtedLabel
from cnnkit.formats import picture_style


@pytest.mark.parametrize(
    ("name", "width"),
    [("rose", 160), ("dandelion", None), ("x" * 60, 240)],
)
def test_cells_are_as_wide_as_their_names(name, width):
    """At least a thumbnail of 160 pixels, at most one and a half; between them the name, its probability and 16 pixels."""
    if width is None:
        width = int(picture_style.length(f"suggested {name}") + picture_style.length("0.90") + 16 + 0.999)
        assert 160 < width < 240
    doubted = DoubtedLabel("a.jpg", "rose", name, confidence=0.9, self_confidence=0.1, suspect=True)
    sheet = label_sheet.render([(1, doubted, Image.new("RGB", (160, 100)))])
    assert sheet.width == width + 2 * 16
