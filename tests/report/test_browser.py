"""A page in a browser: it loads nothing, reports no error, and fits the screen and the paper. Skipped without Chromium."""

import json
import re

import numpy as np
import pytest
from browser import PROGRAM, browser
from PIL import Image

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture(params=[3, 200])
def page(request, tmp_path, monkeypatch, run):
    """A report on predictions of a few or of many classes, some of whose names are long, foreign or hostile."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    names = ["x" * 300, "<script>alert(1)</script>", "日本語" * 40, *(f"class {number}" for number in range(200))]
    names = names[: request.param]
    Image.fromarray(generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save("photo.jpg")
    rows, truth = [], []
    for number in range(2 * len(names) + 30):
        path = f"{'folder' * 30}/../photo.jpg" if number == 0 else f"photos/{'long' * 40}{number}.jpg"
        rows.append({"path": path, "label": names[number % 2], "probability": generator.uniform(0.3, 1)})
        truth.append({"path": path, "label": names[number % len(names)]})
    for file, records in (("test.jsonl", rows), ("truth.jsonl", truth)):
        (tmp_path / file).write_text("".join(json.dumps(record) + "\n" for record in records))
    history = ["epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds"]
    history += [f"{epoch},{9 / epoch},0.5,{12 / epoch},0.4,0.1,1" for epoch in range(1, 120)]
    (tmp_path / "model.csv").write_text("\n".join(history) + "\n")
    words = ("--truth", "truth.jsonl", "-o", "report.html", "--history", "model.csv", "--fail-under", "accuracy=0")
    run("cnn-report", "test.jsonl", *words, status=3)
    return tmp_path / "report.html"


def test_page_fits_screens_and_paper(page, chromium):
    """At 400 and 1,600 pixels, light and dark: no request leaves, no error, no horizontal scrolling; print has colours and few pages."""
    for width, scheme in ((400, "light"), (1600, "dark")):
        chromium.open(page, width=width, scheme=scheme)
        asked = [found["request"]["url"] for name, found in chromium.events if name == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert not [event for event in chromium.events if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert chromium.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert chromium.evaluate("document.scripts.length") == 0
        assert chromium.evaluate("document.documentElement.scrollHeight") < (12_000 if width == 400 else 7_000)
        outside = """[...document.querySelectorAll("section svg text, .tile, .mistake, section p")].filter(each => {
            const box = each.getBoundingClientRect(), room = each.closest("svg, section, header").getBoundingClientRect();
            return box.left < room.left - 1 || box.right > room.right + 1}).map(each => each.textContent)"""
        assert chromium.evaluate(outside) == []
        dark = sum(
            map(int, re.findall(r"\d+", chromium.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
        )
        assert (dark < 150) is (scheme == "dark")
    chromium.call("Emulation.setEmulatedMedia", media="print")
    folded = "[...document.querySelectorAll('details')].map(each => getComputedStyle(each).display)"
    assert set(chromium.evaluate(folded)) == {"none"}  # on paper it cannot be unfolded
    chromium.call("Emulation.setEmulatedMedia", media="")
    pdf = chromium.pdf()
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 9
