"""cnn-report, as it is typed."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image
from test_cnn_cam import write_image, write_model

CPU = ("--device", "cpu")
#: Elements and attributes of junit-10.xsd, the schema of Jenkins' xunit plugin, as far as they are used.
SCHEMA = {
    "testsuites": {"name", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors"},
    "testcase": {"name", "classname"},
    "failure": {"message", "type"},
    "system-out": set(),
}


class Page(HTMLParser):
    """A page as a browser reads it: the cells of each section's rows, links, and everything that could load something."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.images, self.links, self.ids, self.tags = {}, [], [], [], []
        self._section, self._row, self._in_cell = None, None, False
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[name] for name in ("src", "href", "action", "data", "poster") if name in attrs]
        assert not [name for name in attrs if name.startswith("on")]
        if tag == "section":
            self._section = attrs["id"]
            self.ids.append(self._section)
        elif tag == "tr":
            self._row = []
            self.rows.setdefault(self._section, []).append(self._row)
        elif tag in ("td", "th"):
            self._row.append("")
            self._in_cell = True
        elif tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self._row[-1] += data


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with photos of two classes, and predictions of which one is wrong."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    return tmp_path


def write_photos(folder):
    """Write photos of a blue and a red square, and predictions by the colour; one red image has a blue square."""
    lines = ["path\trank\tlabel\tprobability"]
    for index in range(6):
        for label, other in (("red", "blue"), ("blue", "red")):
            path = f"photos/{label}/{index}.png"
            wrong = label == "red" and index == 5
            write_image(folder / path, **{other if not wrong else "red": None}, size=(64 + index, 40))
            best = 0.9 - index / 100
            rows = ((other, best), (label, 1 - best)) if wrong else ((label, best), (other, 1 - best))
            lines += [f"{path}\t{rank}\t{name}\t{share:.4f}" for rank, (name, share) in enumerate(rows, start=1)]
    (folder / "test.tsv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def model(tmp_path_factory, made):
    """A network that maps red and blue, exported with its maps, with a training history next to it."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder / "model.pt")
    rows = [
        "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds",
        "1,0.9,0.5,0.8,0.5,0.1,1",
        "2,0.4,0.9,0.5,0.8,0.1,1",
    ]
    (folder / "model.csv").write_text("\n".join(rows) + "\n")
    return made(("cnn-export", "model.pt", "-o", "model.onnx", "--cam", *CPU), folder=folder)


def test_measures_are_those_of_cnn_eval(run, here):
    """In the printed row, in the table of classes, in the confusion matrix, and in the summary."""
    measured = json.loads(run("cnn-eval", "test.tsv", "--json").out)
    (row,) = run("cnn-report", "test.tsv", "-o", "report.html", "--markdown", "summary.md").rows
    for name in ("accuracy", "accuracy_low", "balanced_accuracy", "log_loss", "roc_auc", "ece"):
        assert float(row[name]) == pytest.approx(measured[name], rel=1e-5)
    assert (row["n"], row["wrong"]) == ("12", "1")
    page = Page("report.html")
    assert page.ids == ["confusion", "confidence", "classes", "mistakes"]
    for cells in page.rows["classes"][1:]:
        values = measured["per_class"][cells[0]]
        assert cells[1:4] == [str(values["support"]), f"{values['precision']:.3f}", f"{values['recall']:.3f}"]
    assert [cells[1:] for cells in page.rows["confusion"][1:]] == [
        [str(count) if count or place == column else "" for column, count in enumerate(counts)]
        for place, counts in enumerate(measured["confusion"])
    ]
    summary = Path("summary.md").read_text()
    assert f"| accuracy | {measured['accuracy']:.4f} (" in summary
    assert "| `red` | `blue` | 1 |" in summary


def test_heat_maps_history_and_header(run, here, model):
    """The mistake has its image and two maps: red where the network sees evidence for the true class, which has none here."""
    done = run("cnn-report", "test.tsv", "-m", model / "model.onnx", "-o", "report.html", *CPU)
    page = Page("report.html")
    assert page.ids == ["confusion", "confidence", "classes", "mistakes", "training", "model"]
    assert [image["alt"] for image in page.images] == [
        "image of the class red, predicted as blue",
        "heat map of blue",
        "heat map of red (no evidence)",
    ]
    plain, blue, _ = (np.asarray(decoded(image), dtype=np.int64) for image in page.images)
    changed = np.abs(blue - plain).sum(axis=2)
    rows, columns = np.nonzero(blue[..., 0] - plain[..., 0] > 60)  # the bright end of the colours
    assert changed.any()
    assert 34 <= columns.mean() <= 54  # the blue square: see `write_image`
    assert 2 <= rows.mean() <= 16
    facts = dict(row for row in page.rows["model"] if len(row) == 2)
    assert facts["command"] == "cnn-train-head"
    assert facts["backbone"] == "conv 2 k1 relu"
    assert facts["input"] == "16 × 16 pixels, RGB"
    assert "2 epochs; the best is epoch 2" in Path("report.html").read_text()
    assert "no training history" not in done.err


def decoded(image):
    kind, content = re.fullmatch(r"data:image/(jpeg|png);base64,(.*)", image["src"]).groups()
    found = Image.open(io.BytesIO(base64.b64decode(content)))
    assert found.format == kind.upper()
    assert [str(side) for side in found.size] == [image["width"], image["height"]]
    return found.convert("RGB")


def test_a_model_without_maps_or_history(run, here, model):
    """Each is a notice; the images are shown without maps."""
    words = ("-m", model / "model.pt", "--history", model / "model.csv", *CPU)
    run("cnn-report", "test.tsv", "-o", "report.html", *words)
    assert len(Page("report.html").images) == 3  # a .pt has gradients
    proto = onnx.load(model / "model.onnx")
    proto.graph.output.remove(next(output for output in proto.graph.output if output.name == "cam"))
    onnx.save(proto, "alone.onnx")
    done = run("cnn-report", "test.tsv", "-m", "alone.onnx", "-o", "alone.html", *CPU)
    assert "no training history: there is no alone.csv; give --history FILE.csv" in done.err
    assert "no heat maps: alone.onnx outputs no class activation maps" in done.err
    page = Page("alone.html")
    assert "training" not in page.ids
    assert len(page.images) == 1


def test_mistakes_are_in_order_of_confidence(run, here, model):
    """The most confident first, equal ones by path; a warning says that the model predicts other classes."""
    rows = [("red/5", "blue", 0.85), ("red/1", "blue", 0.7), ("blue/2", "red", 0.99), ("blue/1", "red", 0.7)]
    lines = [f"photos/{path}.png\t{label}\t{share}\n" for path, label, share in [*rows, ("red/0", "red", 1)]]
    Path("some.tsv").write_text("path\tlabel\tprobability\n" + "".join(lines))
    done = run("cnn-report", "some.tsv", "-m", model / "model.onnx", "-o", "all.html", *CPU)
    assert paths("all.html") == ["blue/2.png", "red/5.png", "blue/1.png", "red/1.png"]
    assert "predicts another class for 3 images of the mistakes shown" in done.err  # it is wrong about red/5 only
    assert "Every wrong prediction." in Path("all.html").read_text()
    done = run("cnn-report", "some.tsv", "--worst", 2, "-o", "two.html")
    assert paths("two.html") == ["blue/2.png", "red/5.png"]
    assert "The 2 most confident of 4 wrong predictions." in Path("two.html").read_text()
    assert "another class" not in run("cnn-report", "test.tsv", "-m", model / "model.onnx", "-o", "one.html", *CPU).err


def paths(page):
    """Return the images that a page shows as mistakes."""
    return re.findall('<p class="path">(.*?)</p>', Path(page).read_text())


def test_same_bytes_in_any_folder(run, tmp_path, monkeypatch, model):
    """With absolute paths, too: the page names no folder of the machine."""
    pages = []
    for name in ("one", "another/folder"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        write_photos(folder)
        monkeypatch.chdir(folder)
        lines = (folder / "test.tsv").read_text().replace("photos/", f"{folder}/photos/")
        (folder / "absolute.tsv").write_text(lines)
        words = (
            "--truth",
            folder / "photos",
            "--check",
            "-m",
            model / "model.onnx",
            "-o",
            "report.html",
            "--junit",
            "x.xml",
        )
        run("cnn-report", folder / "absolute.tsv", *words, *CPU)
        pages.append((folder / "report.html").read_bytes() + (folder / "x.xml").read_bytes())
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


def test_page_loads_nothing_and_hostile_names_stay_text(run, here):
    """No script, no event handler, no address except its own headings and the images in it."""
    names = [
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "new\nline",
        "x" * 300,
        "http://example.org/",
    ]
    rows = [
        {"path": f"<b>{index}\"'.png", "label": names[(index + (index % 7 == 0)) % 5], "probability": 0.5 + index / 99}
        for index in range(40)
    ]
    truth = [{"path": row["path"], "label": names[index % 5]} for index, row in enumerate(rows)]
    for file, records in (("test.jsonl", rows), ("truth.jsonl", truth)):
        Path(file).write_text("".join(json.dumps(record) + "\n" for record in records))
    run("cnn-report", "test.jsonl", "--truth", "truth.jsonl", "-o", "report.html", "--junit", "report.xml", status=3)
    page = Page("report.html")
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "a:href"} & set(page.tags)
    assert "default-src 'none'" in Path("report.html").read_text()
    assert [cells[0] for cells in page.rows["classes"][1:]] == sorted(name.replace("\n", "\\n") for name in names)
    tests = ElementTree.parse("report.xml").findall(".//testcase")
    assert [test.get("name") for test in tests] == sorted(name.replace("\n", "\\n") for name in names)


def test_bounds_are_checked_after_everything_is_written(run, here):
    """Exit status 4; each violated bound is a failure of one test, in the elements and attributes of the schema."""
    bounds = ("--fail-under", "accuracy=0.9", "--fail-under", "recall:red=0.9", "--fail-over", "log_loss=0.9")
    words = ("-o", "report.html", "--markdown", "summary.md", "--junit", "report.xml")
    done = run("cnn-report", "test.tsv", *words, "--fail-under", "n=12", *bounds, status=4)
    assert "recall:red 0.833333 is below 0.9" in done.err
    root = ElementTree.parse("report.xml").getroot()
    for each in root.iter():
        assert set(each.attrib) == SCHEMA[each.tag]
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "5", "1", "0")
    assert [suite.get("failures") for suite in root] == ["0", "1"]
    (failed,) = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert failed.get("name") == "red"
    assert failed.find("failure").get("message") == "recall:red is 0.833333, expected recall:red at least 0.9"
    assert "**1 of 4 bounds violated.**" in Path("summary.md").read_text()
    losses = [-np.log(0.9 - index / 100) for index in range(6) for _ in "rb"]
    losses[-1] = -np.log(0.15)  # the mistake
    assert Page("report.html").rows["bounds"][-2:] == [
        ["recall:red at least 0.9", "0.8333", "✗ violated"],
        ["log_loss at most 0.9", f"{np.mean(losses):.4f}", "✓ met"],
    ]


def test_duplicates_in_another_split_are_counted(run, here):
    """With --check; and the accuracy without them."""
    generator = np.random.default_rng(0)
    for path in here.glob("photos/*/*.png"):  # images that are not alike
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    shutil.copy("photos/red/5.png", "photos/red/copy.png")
    lines = ["path\tlabel\tsplit", "photos/red/copy.png\tred\ttrain"]
    lines += [f"photos/{label}/{index}.png\t{label}\ttest" for index in range(6) for label in ("red", "blue")]
    Path("split.tsv").write_text("\n".join(lines) + "\n")
    run("cnn-report", "test.tsv", "--truth", "split.tsv", "--split", "test", "--check", "-o", "report.html")
    text = Path("report.html").read_text()
    assert "1 of the 12 evaluated images has a duplicate, or an image of their group, in another split" in text
    assert "without them, the accuracy is 100.0 %" in text
    assert ["error", "identical", "red/5.png", "red/copy.png", "in train and test"] in Page("report.html").rows[
        "images"
    ]


def test_summary_on_standard_output(run, here):
    """In place of the row; nothing else is written."""
    before = sorted(here.iterdir())
    done = run("cnn-report", "-", "--markdown", "-", stdin=Path("test.tsv").read_text())
    assert done.out.startswith("### `standard input`\n\n**Accuracy 91.7 %**")
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to write; give -o report.html, --markdown FILE or --junit FILE"),
        (("-o", "report.pdf"), "report.pdf: the report is an HTML page; give it a name that ends in .html"),
        (("--junit", "-"), "--junit -: test results are written to a file; give it a name, such as report.xml"),
        (("--markdown", "x", "--junit", "x"), "x: two files of the report have this name; choose another one"),
        (("--markdown", "x", "--junit", "./x"), "x: two files of the report have this name; choose another one"),
        (("--markdown", "-", "--check"), "--check is for the HTML page; add -o report.html, or drop it"),
        (("--junit", "x", "--worst", 3), "--worst is for the HTML page; add -o report.html, or drop it"),
        (
            ("--markdown", "./test.tsv"),
            "test.tsv is read, and would be replaced by a file of the report; choose another name",
        ),
        (("-o", "x.html", "-m", "x.h5"), "--model x.h5: expected a .onnx or .pt file made by cnnkit"),
        (("-o", "x.html", "--truth", "-", "--check"), "--check reads the truth again"),
    ],
)
def test_refused_options(run, here, words, message):
    """One line, and nothing is written."""
    done = run("cnn-report", "test.tsv", *words, status=2)
    assert done.err.startswith(f"cnn-report: {message}")
    assert done.err.count("\n") == 1
    assert not list(here.glob("*.html"))


def test_withheld_predictions_and_none_with_probabilities(run, here):
    """The page has a column of withheld predictions, and says why there is no reliability diagram."""
    text = Path("test.tsv").read_text()
    Path("some.tsv").write_text(text.replace("photos/blue/0.png\t1\tblue", "photos/blue/0.png\t1\t?"))
    run("cnn-report", "some.tsv", "-o", "some.html")
    assert Page("some.html").rows["confusion"][0] == ["true ↓ predicted →", "blue", "red", "?"]
    labels = [line.rpartition("\t")[0] for line in text.splitlines() if "\t2\t" not in line]
    Path("labels.tsv").write_text("\n".join(labels) + "\n")
    run("cnn-report", "labels.tsv", "-o", "labels.html")
    assert "The predictions have no probabilities." in Path("labels.html").read_text()
    assert 'class="chart"' not in Path("labels.html").read_text()
