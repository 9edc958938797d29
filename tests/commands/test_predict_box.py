"""A box as the second output of a network, from the manifest to cnn-eval, through the commands."""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

import cnnkit
from cnnkit.formats import onnx_model, torch_model
from cnnkit.formats.box import Box
from cnnkit.nets import classifier
from cnnkit.train import trainer

NET = "conv 4 k3 relu, pool 2, conv 8 k3 relu, gap"
FAST = (
    "--layers",
    NET,
    "--size",
    "16",
    "--device",
    "cpu",
    "--lr",
    "0.02",
    "--batch",
    "8",
    "--epochs",
    "3",
    "--amp",
    "off",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with boxes.tsv: squares, bright or striped, on a dark canvas of 40 x 30 pixels; two have no box."""
    generator = np.random.default_rng(0)
    lines = ["path\tlabel\tsplit\tbox"]
    for number in range(44):
        label = ("plain", "striped")[number % 2]
        side, x, y = (int(generator.integers(low, high)) for low, high in ((10, 18), (0, 23), (0, 13)))
        canvas = generator.integers(0, 40, (30, 40, 3), dtype=np.uint8)
        canvas[y : y + side, x : x + side] = 230
        if label == "striped":
            canvas[y : y + side : 2, x : x + side] = 60
        Image.fromarray(canvas).save(tmp_path / f"{number:02d}.png")
        box = "" if number in (3, 34) else f"{x},{y},{side},{side}"
        lines.append(f"{number:02d}.png\t{label}\t{'train' if number < 32 else 'val'}\t{box}")
    (tmp_path / "boxes.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(run, *words, out="m.pt", **others):
    return run("cnn-train", "boxes.tsv", "-o", out, "--predict-box", *FAST, *words, **others)


def table(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_from_manifest_to_iou(run, here):
    """Training, export, prediction and evaluation agree with torch and torchvision."""
    trained = train(run, "--fit", "crop", "--augment", "hflip, shift 0.1, rotate 10", "--json")
    assert "1 of 32 training images and 1 of 12 validation images have no box" in trained.err
    *epochs, result = map(json.loads, trained.out.splitlines())
    kept = torch_model.load("m.pt")
    assert kept.header.box_head == "flatten, dense 4"
    assert kept.header.training["box_weight"] > 0
    assert (
        Path("m.csv")
        .read_text()
        .startswith("epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,seconds,val_iou\n")
    )
    drawn = table(run("cnn-curves", "m.csv").out)
    assert [float(row["val_iou"]) for row in drawn] == pytest.approx([row["val_iou"] for row in epochs], rel=1e-5)
    assert "IoU" in run("cnn-curves", "m.csv", "--plot").out
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")

    network = classifier.from_header(kept.header, kept.state, name="m.pt")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = network.box(network.base(network.normalise(torch.from_numpy(pixels))))
    (found,) = onnxruntime.InferenceSession("m.onnx").run(["box"], {"images": pixels})
    assert found == pytest.approx(wanted.numpy(), abs=1e-5)

    printed = run("cnn-predict", "-m", "m.onnx", "boxes.tsv", "--split", "val", "--top", "2", "--device", "cpu").out
    rows = table(printed)
    assert list(rows[0]) == ["path", "rank", "label", "probability", "box"]
    assert len(rows) == 24
    assert all(one["box"] == two["box"] for one, two in zip(rows[::2], rows[1::2], strict=True))
    truth = {row["path"]: row["box"] for row in table(Path("boxes.tsv").read_text()) if row["box"]}
    pairs = [(row["box"], truth[row["path"]]) for row in rows[::2] if row["path"] in truth]
    edges = [
        torch.tensor([Box.parse(box).edges if box else (0.0,) * 4 for box in side]) for side in zip(*pairs, strict=True)
    ]
    shares = box_iou(*edges).diagonal()
    measured = json.loads(run("cnn-eval", "--truth", "boxes.tsv", "--split", "val", "--json", stdin=printed).out)
    assert measured["boxes"] == 11
    assert measured["iou"] == pytest.approx(shares.mean().item(), abs=1e-5)
    assert measured["iou_50"] == pytest.approx((shares >= 0.5).float().mean().item(), abs=1e-6)
    assert measured["iou_50_low"] <= measured["iou_50"] <= measured["iou_50_high"]
    # The history's is in shares of the input, where the crop cuts boxes off; here, predictions are cut off at the image's edges
    assert result["val_iou"] == pytest.approx(max(epochs, key=lambda row: -row["val_loss"])["val_iou"])


def test_network_finds_the_box(run, here):
    trained = train(run, "--epochs", "40", "--patience", "40", "--json")
    assert json.loads(trained.out.splitlines()[-1])["val_iou"] > 0.4


def test_resume_gives_the_same_bytes(run, here):
    words = ("--augment", "hflip, shift 0.1", "--ema", "0.9", "--checkpoint-every", "0")
    train(run, *words, "--epochs", "3", out="whole.pt")
    before = trainer.Trainer.keep

    def stop(self, done):
        before(self, done)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "keep", stop)
        run("cnn-train", "boxes.tsv", "-o", "part.pt", "--predict-box", *FAST, *words, "--epochs", "3", status=130)
    train(run, *words, "--epochs", "3", "--resume", out="part.pt")
    assert Path("part.pt").read_bytes() == Path("whole.pt").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mixup", "0.2"), "--mixup blends two images"),
        (("--cutmix", "1"), "--cutmix blends two images"),
        (("--augment", "randaugment 2 9"), "--augment randaugment moves objects without their boxes"),
        (("--augment", "trivialaugment"), "--augment trivialaugment moves objects without their boxes"),
        (("--val-size", "20"), "--val-size needs a network for any size"),
        (("--box-weight", "0"), "--box-weight 0 would not train the box"),
        (("--margin", "0.1"), "--predict-box learns the boxes as they are"),
        (("--layers", "flatten, dense 8 relu"), "--predict-box: a box is computed from a map"),
    ],
)
def test_rejects_what_boxes_do_not_go_with(run, here, words, message):
    assert message in train(run, *words, status=2).err


def test_box_weight_needs_predict_box(run, here):
    found = run("cnn-train", "boxes.tsv", "-o", "m.pt", *FAST, "--box-weight", "3", status=2)
    assert "--box-weight goes with --predict-box" in found.err


def test_rejects_two_boxes_of_an_image(run, here):
    with Path("boxes.tsv").open("a") as file:
        file.write("00.png\tplain\ttrain\t1,2,3,4\n")
    assert "00.png has the boxes" in train(run, status=1).err


def test_rejects_a_manifest_without_boxes(run, here):
    text = "\n".join(line.rpartition("\t")[0] for line in Path("boxes.tsv").read_text().splitlines())
    Path("boxes.tsv").write_text(text + "\n")
    assert "no training image has a box" in train(run, status=1).err


def test_other_commands_use_or_refuse_such_a_model(run, here):
    text = Path("boxes.tsv").read_text()
    train(run, "--epochs", "1")
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")
    for words, message in (
        (("--dynamic-size",), "drop --dynamic-size"),
        (("--head-only",), "drop --head-only"),
        (("--int8", "--calibrate", "boxes.tsv"), "drop --int8"),
    ):
        assert message in run("cnn-export", "m.pt", "-o", "n.onnx", *words, status=2).err
    predict = ("cnn-predict", "boxes.tsv", "--device", "cpu", "-m", "m.onnx")
    assert "drop --tta" in run(*predict, "--tta", "hflip", status=2).err
    assert "give that model alone" in run(*predict, "-m", "m.onnx", status=2).err
    assert "also predicts a box" in run("cnn-finetune", "m.pt", "boxes.tsv", "-o", "f.pt", status=2).err
    run("cnn-predict", "boxes.tsv", "--split", "val", "--top", "all", "--device", "cpu", "-m", "m.onnx", "--logits")
    scored = run("cnn-predict", "boxes.tsv", "--split", "val", "--top", "all", "--device", "cpu", "-m", "m.onnx").out
    Path("c.onnx").write_bytes(onnx_model.tempered(onnx_model.load("m.onnx"), 2.0, name="m.onnx"))  # by cnn-calibrate
    assert "takes only 16 x 16 pixels; drop --size" in run(*predict, "--size", "24", status=2).err
    assert "takes whole images; drop it" in run(*predict, "--margin", "0.1", status=2).err
    evaluate = ("cnn-eval", "--truth", "boxes.tsv", "--split", "val")
    assert "compared with those of the manifest" in run(*evaluate, "--margin", "0.1", stdin=scored, status=2).err
    Path("whole.tsv").write_text("\n".join(line.rpartition("\t")[0] for line in text.splitlines()) + "\n")
    found = run("cnn-eval", "--truth", "whole.tsv", "--split", "val", "--fail-under", "iou=0", stdin=scored, status=2)
    assert "no iou without boxes" in found.err
    again = table(run("cnn-predict", "-m", "c.onnx", "boxes.tsv", "--split", "val", "--device", "cpu").out)
    assert [row["box"] for row in again] == [row["box"] for row in table(scored)[::2]]


def test_all_commands_take_whole_images_each_once(run, here):
    """As in training and prediction, also if an image has several boxes."""
    train(run, "--epochs", "1")
    run("cnn-export", "m.pt", "-o", "m.onnx", "--device", "cpu")
    rows = ["path\tlabel\tbox", *(f"{name}.png\tplain\t{x},2,9,9" for name in ("00", "02", "01") for x in (1, 3))]
    Path("two.tsv").write_text("\n".join([*rows, ""]))
    paths = ["00.png", "02.png", "01.png"]
    cams = run("cnn-cam", "-m", "m.pt", "two.tsv", "--device", "cpu").rows
    attacked = run("cnn-attack", "-m", "m.pt", "two.tsv", "-o", "attacked", "--device", "cpu").rows
    rows = run("cnn-predict", "-m", "m.onnx", "two.tsv", "--device", "cpu").rows
    (made,) = cnnkit.Classifier("m.onnx", device="cpu").predict("00.png")
    assert Box(*made.box).text() == rows[0]["box"]
    assert [row["path"] for row in cams] == [row["path"] for row in attacked] == [row["path"] for row in rows] == paths
    for shown in (cams[0]["probability"], attacked[0]["probability_before"]):
        assert float(shown) == pytest.approx(float(rows[0]["probability"]), abs=1e-5)
    top = ("cnn-filters", "-m", "m.pt", "--top-images", "two.tsv", "-o", "top.png", "--device", "cpu")
    assert {row["path"] for row in run(*top).rows} <= set(paths)
    run("cnn-export", "m.pt", "-o", "cam.onnx", "--cam", "--device", "cpu")
    for words in (("m.pt", "--fine"), ("cam.onnx",)):
        maps = run("cnn-cam", "two.tsv", "--device", "cpu", "-m", *words).rows
        assert [row["path"] for row in maps] == paths
