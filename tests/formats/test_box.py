"""Boxes: text, geometry against values worked out by hand and torchvision, and paths of crops."""

import os

import pytest
import torch
from torchvision.ops import box_iou

from cnnkit import files
from cnnkit.errors import FormatError
from cnnkit.formats import box
from cnnkit.formats.box import Box


@pytest.mark.parametrize(
    ("text", "read", "written"),
    [
        ("160,120,320,240", Box(160, 120, 320, 240), "160,120,320,240"),
        (" 1.50, -2 ,3 , 4.0 ", Box(1.5, -2, 3, 4), "1.5,-2,3,4"),
        ("[10, 20, 30, 40]", Box(10, 20, 30, 40), "10,20,30,40"),
        ("1e-7,0.1,1e3,2", Box(1e-7, 0.1, 1000, 2), "0.0000001,0.1,1000,2"),
    ],
)
def test_text_is_the_shortest_that_is_read_as_the_same_numbers(text, read, written):
    assert Box.parse(text) == read
    assert read.text() == written
    assert Box.parse(written) == read


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,nan,4", "1,2,3,inf", "1;2;3;4"])
def test_rejects_what_is_not_four_numbers(text):
    with pytest.raises(FormatError, match="is not x,y,width,height in pixels of the image; write four numbers such as"):
        Box.parse(text)


@pytest.mark.parametrize(
    ("one", "inside", "pixels"),
    [
        (Box(10, 20, 30, 40), Box(10, 20, 30, 40), (10, 20, 40, 60)),
        (Box(-5, -5, 20, 10), Box(0, 0, 15, 5), (0, 0, 15, 5)),
        (Box(90, 70, 50, 50), Box(90, 70, 10, 10), (90, 70, 100, 80)),
        (Box(0.1, 0.2, 99.7, 79.5), Box(0.1, 0.2, 99.7, 79.5), (0, 0, 100, 80)),
        (Box(10.2, 10.2, 0.1, 0.1), Box(10.2, 10.2, 0.1, 0.1), (10, 10, 11, 11)),
        (Box(99.8, 79.8, 0.1, 0.1), Box(99.8, 79.8, 0.1, 0.1), (99, 79, 100, 80)),
        (Box(10, 10, 0, 5), None, None),
        (Box(10, 10, 5, -5), None, None),
        (Box(-20, -20, -30, -30), None, None),
        (Box(100, 0, 10, 10), None, None),
        (Box(0, -10, 10, 10), None, None),
    ],
)
def test_box_is_clipped_to_the_image(one, inside, pixels):
    assert one.clipped((100, 80)) == inside
    assert one.pixels((100, 80)) == pixels


def test_margin_is_a_share_of_the_longer_side():
    assert Box(10, 20, 64, 32).with_margin(0.1) == Box(4, 14, 76, 44)  # 6.4 pixels are 6
    assert Box(10, 20, 64, 32).with_margin(0) == Box(10, 20, 64, 32)
    assert Box(10, 20, 64, 0).with_margin(0.5).area == 0


def test_iou_is_torchvisions():
    boxes = [Box(0, 0, 10, 10), Box(5, 5, 10, 10), Box(2, 3, 4, 5.5), Box(10, 0, 5, 5), Box(-3, 2, 30, 1)]
    edges = torch.tensor([each.edges for each in boxes], dtype=torch.float64)
    ours = torch.tensor([[one.iou(other) for other in boxes] for one in boxes], dtype=torch.float64)
    assert torch.allclose(ours, box_iou(edges, edges))
    assert Box(0, 0, 10, 10).iou(Box(2, 2, 0, 3)) == 0


def test_path_of_a_crop_names_the_file_and_the_box(tmp_path):
    path = box.of_path("photos/1.jpg", Box(160, 120, 320, 240))
    assert path == "photos/1.jpg#xywh=160,120,320,240"
    assert box.divided(path) == ("photos/1.jpg", Box(160, 120, 320, 240))
    assert box.of_path("photos/1.jpg", None) == "photos/1.jpg"
    for whole in (
        "photos/1.jpg",
        "photos/1#xywh=.jpg",
        "a#xywh=1,2,3",
        "a#xywh=1,2,3,4.5.6",
        "a#xywh=1,2,3,-",
        f"a#xywh=1,2,3,{'9' * 400}",
    ):
        assert box.divided(whole) == (whole, None)


def test_paths_of_the_same_crop_are_one(tmp_path):
    assert box.normal_path("1.jpg#xywh=2.0,+3,.50,04") == "1.jpg#xywh=2,3,0.5,4"
    assert box.normal_path("1.jpg") == "1.jpg"
    odd = f"{tmp_path}/1.jpg#xywh=2.0,3,4,5"
    open(odd, "wb").close()
    assert box.normal_path(odd) == odd


def test_crop_is_opened_as_its_file_unless_a_file_has_its_name(tmp_path):
    file = tmp_path / "1.jpg"
    file.write_bytes(b"whole")
    crop = f"{file}#xywh=1,2,3,4"
    assert files.exists(crop)
    assert files.regular_size(crop) == 5
    assert files.read_regular(crop) == b"whole"
    with open(crop, "wb") as odd:
        odd.write(b"of this name")
    assert os.listdir(tmp_path)
    assert files.read_regular(crop) == b"of this name"
