"""Remedies in messages work: the error does not occur when they are followed."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

NET = '--layers "conv 4 k3 relu" --size 8'
BASE = '--layers "conv 4 k3 relu, gap" --weights none --size 8'


@pytest.fixture(scope="module")
def place(made):
    """A folder with photos, splits, features, a head, a network, and predictions of both."""
    folder = made(photos={"train": {"red": 6, "blue": 6, "green": 6}, "val": {"red": 3, "blue": 3, "green": 3}})
    made(
        ("cnn-split", "photos/train", "--ratio", "2,1", "--manifest", "split.tsv"),
        ("cnn-split", "photos/train", "--folds", "3", "--manifest", "folds.tsv"),
        ("cnn-extract", "photos/train", "-o", "train.npy", *shlex.split(BASE)),
        ("cnn-extract", "photos/val", "-o", "val.npy", *shlex.split(BASE)),
        ("cnn-train-head", "train.npy", "--val", "val.npy", "-o", "head.pt", "--solver", "lbfgs", "--l2", "0.01"),
        ("cnn-train", "split.tsv", "-o", "net.pt", "--epochs", "1", *shlex.split(NET)),
        ("cnn-export", "net.pt", "-o", "net.onnx"),
        folder=folder,
    )
    for labels, name in ((("red", "blue"), "p.tsv"), (("blue", "red"), "q.tsv")):
        rows = [
            f"photos/val/{label}/00.png\t1\t{guess}\t0.9" for label, guess in zip(("red", "blue"), labels, strict=True)
        ]
        (folder / name).write_text("\n".join(["path\trank\tlabel\tprobability", *rows, ""]))
    (folder / "bare.tsv").write_text("path\tlabel\nphotos/val/red/00.png\tred\nphotos/val/blue/00.png\tblue\n")
    Image.new("RGB", (24, 16)).save(folder / "sky.png")
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """Change to a copy of it."""
    shutil.copytree(place, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


#: A failing command line, the remedy in its message, and the line with the remedy.
ROWS = [
    ("cnn-split photos/train", "such as --ratio 70,15,15", "cnn-split photos/train --ratio 70,15,15"),
    ("cnn-split photos/train --ratio 80/20", "as --ratio 80,20", "cnn-split photos/train --ratio 80,20"),
    ("cnn-split photos/train --ratio 80", "as 80,20", "cnn-split photos/train --ratio 80,20"),
    (
        "cnn-split photos/train --ratio 0.5,0.4",
        "or whole numbers such as 2,1,1",
        "cnn-split photos/train --ratio 2,1,1",
    ),
    (
        "cnn-split photos/train --ratio 1,1,1,1",
        "name them with --names",
        "cnn-split photos/train --ratio 1,1,1,1 --names a,b,c,d",
    ),
    ("cnn-split photos/train --count 2,2 --stable", "use --ratio", "cnn-split photos/train --ratio 2,2 --stable"),
    ("cnn-split photos/train --count 60,2", "lower it", "cnn-split photos/train --count 4,2"),
    (
        "cnn-split photos/train --count 2.5,1",
        "use --ratio for shares",
        "cnn-split photos/train --ratio 0.7,0.3",
    ),
    (
        "cnn-split photos/train --ratio 2,1 --link symlink",
        "add -o DIR",
        "cnn-split photos/train --ratio 2,1 --link symlink -o DIR",
    ),
    (
        "cnn-split photos/train --ratio 2,1 -o photos/val",
        "choose another folder",
        "cnn-split photos/train --ratio 2,1 -o DIR",
    ),
    (
        "cnn-split photos/train --ratio 2,1 --manifest s.csv",
        "a name that ends in .tsv",
        "cnn-split photos/train --ratio 2,1 --manifest s.tsv",
    ),
    (
        "cnn-check photos/train --similarity 0.9",
        "--features FILE.npy",
        "cnn-check photos/train --similarity 0.9 --features train.npy",
    ),
    ("cnn-dims --filters 2 --input 9,9,3", "give --k", "cnn-dims --filters 2 --input 9,9,3 --k 3"),
    ("cnn-dims --input 9,9,3 --k 3", "add --filters", "cnn-dims --input 9,9,3 --k 3 --filters 2"),
    ("cnn-dims --input 9,9,3 --pool 3,5,7", "HxW as in 3x5", "cnn-dims --input 9,9,3 --pool 3x5"),
    ('cnn-dims --input 9,9,3 --layers "conv 8"', 'write "conv 8 k3"', 'cnn-dims --input 9,9,3 --layers "conv 8 k3"'),
    ('cnn-dims --input 9,9,3 --layers "poll 2"', 'did you mean "pool"', 'cnn-dims --input 9,9,3 --layers "pool 2"'),
    (
        'cnn-extract photos/val -o x.npy --layers "conv 4 k3" --weights none --size 8 --views 2',
        "give both or neither",
        'cnn-extract photos/val -o x.npy --layers "conv 4 k3" --weights none --size 8 --views 2 --augment hflip',
    ),
    (
        "cnn-train-head train.npy -o h.pt --patience 2",
        "give --val",
        "cnn-train-head train.npy -o h.pt --patience 2 --val val.npy --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --momentum 0.9",
        "goes with sgd",
        "cnn-train-head train.npy -o h.pt --momentum 0.9 --optimizer sgd --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --weight-decay 0.1",
        "goes with adamw",
        "cnn-train-head train.npy -o h.pt --weight-decay 0.1 --optimizer adamw --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --optimizer sgd --momentum 1",
        "such as 0.9",
        "cnn-train-head train.npy -o h.pt --optimizer sgd --momentum 0.9 --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --ema 1",
        "such as 0.999",
        "cnn-train-head train.npy -o h.pt --ema 0.999 --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --solver lbfgs --epochs 9 --l2 1",
        "drop --epochs",
        "cnn-train-head train.npy -o h.pt --solver lbfgs --l2 1",
    ),
    (
        'cnn-train-head train.npy -o h.pt --solver lbfgs --l2 1 --head "dense 4 relu"',
        "use --solver gradient",
        'cnn-train-head train.npy -o h.pt --solver gradient --l2 1 --head "dense 4 relu" --epochs 1',
    ),
    (
        "cnn-train-head train.npy -o h.pt --loss binary",
        "use --loss categorical",
        "cnn-train-head train.npy -o h.pt --loss categorical --epochs 1",
    ),
    (
        "cnn-train-head train.npy -o h.pt --schedule plateau",
        "or another schedule",
        "cnn-train-head train.npy -o h.pt --schedule cosine --epochs 1",
    ),
    (
        "cnn-train split.tsv -o n.pt --epochs 1 --warmup 2 " + NET,
        "--epochs 1",
        "cnn-train split.tsv -o n.pt --epochs 2 --warmup 2 " + NET,
    ),
    (
        'cnn-train split.tsv -o n.pt --epochs 1 --augment "rotat 9" ' + NET,
        'did you mean "rotate"',
        'cnn-train split.tsv -o n.pt --epochs 1 --augment "rotate 9" ' + NET,
    ),
    ("cnn-predict -m net.onnx val.npy", "give it images", "cnn-predict -m net.onnx photos/val"),
    (
        "cnn-predict -m net.onnx photos/val --top 0",
        "a number of 1 or more, or all",
        "cnn-predict -m net.onnx photos/val --top all",
    ),
    (
        "cnn-predict -m net.onnx photos/val --labels-only --top 2",
        "drop --top",
        "cnn-predict -m net.onnx photos/val --labels-only",
    ),
    (
        "cnn-predict -m net.onnx photos/val --vote hard",
        "or --tta",
        "cnn-predict -m net.onnx photos/val --vote hard --tta hflip",
    ),
    (
        "cnn-predict -m net.onnx photos/val --views 4",
        'as in --tta "crop 0.9, hflip"',
        'cnn-predict -m net.onnx photos/val --views 4 --tta "crop 0.9, hflip"',
    ),
    (
        'cnn-predict -m net.onnx photos/val --tta "hflip" --views 3',
        "such as crop 0.9",
        'cnn-predict -m net.onnx photos/val --tta "hflip, crop 0.9" --views 3',
    ),
    (
        "cnn-predict -m net.onnx sky.png --split val",
        "--split needs a manifest or a folder",
        "cnn-predict -m net.onnx photos --split val",
    ),
    ("cnn-eval p.tsv q.tsv", "cnn-compare to compare", "cnn-compare p.tsv q.tsv"),
    ("cnn-eval p.tsv --truth p.tsv", "pass a manifest with --truth", "cnn-eval p.tsv --truth bare.tsv"),
    ("cnn-eval split.tsv", "cnn-eval --truth takes it", "cnn-eval p.tsv --truth bare.tsv"),
    ("cnn-eval p.tsv --split val", "pass one with --truth", "cnn-eval p.tsv --truth photos --split val"),
    ("cnn-eval p.tsv --fail-under log_loss=9", "use --fail-over log_loss=9", "cnn-eval p.tsv --fail-over log_loss=9"),
    ("cnn-eval p.tsv --fail-under acuracy=0", 'did you mean "accuracy"', "cnn-eval p.tsv --fail-under accuracy=0"),
    ("cnn-eval p.tsv --confusion c.jpg", "ends in .png", "cnn-eval p.tsv --confusion c.png"),
    ("cnn-export net.onnx -o x.onnx", "give the .pt", "cnn-export net.pt -o x.onnx"),
    (
        "cnn-predict -m net.onnx photos/val --size 16",
        "cnn-export --dynamic-size, or drop --size",
        "cnn-predict -m net.onnx photos/val",
    ),
    ("cnn-cam -m net.pt photos/val --raw", "with -o DIR", "cnn-cam -m net.pt photos/val --raw -o maps"),
    ("cnn-cam -m net.onnx photos/val", "give the .pt", "cnn-cam -m net.pt photos/val"),
    (
        "cnn-dream net.pt sky.png -o sky.png",
        "choose another name",
        "cnn-dream net.pt sky.png -o d.png --steps 1 --octaves 1",
    ),
    (
        "cnn-dream net.pt sky.png -o d.jpg --steps 1",
        "ends in .png",
        "cnn-dream net.pt sky.png -o d.png --steps 1 --octaves 1",
    ),
    (
        "cnn-dream net.pt sky.png -o d.png --size 8x8",
        "the longer side of the dream",
        "cnn-dream net.pt sky.png -o d.png --size 24 --octaves 1 --steps 1",
    ),
    (
        "cnn-dream net.pt sky.png -o d.png --size 4 --steps 1",
        "larger --size, or for a dream fewer --octaves",
        "cnn-dream net.pt sky.png -o d.png --size 24 --octaves 1 --steps 1",
    ),
    ("cnn-filters net.pt -o f.png --kernels --layer conv1", "drop --layer", "cnn-filters net.pt -o f.png --kernels"),
    ("cnn-attack -m net.onnx photos/val -o adv", "give the .pt", "cnn-attack -m net.pt photos/val -o adv"),
    (
        "cnn-attack -m net.pt photos/val -o adv --step-size 1",
        "add --steps 10",
        "cnn-attack -m net.pt photos/val -o adv --step-size 1 --steps 10",
    ),
    (
        "cnn-style sky.png --style sky.png -m net.pt -o d.png --steps 1 --rate 1",
        "add --optimizer adam",
        "cnn-style sky.png --style sky.png -m net.pt -o d.png --steps 1 --rate 1 --optimizer adam",
    ),
    (
        "cnn-style sky.png --style sky.png -m net.pt -o d.png --steps 1 --seed 1",
        "add --start noise",
        "cnn-style sky.png --style sky.png -m net.pt -o d.png --steps 1 --seed 1 --start noise",
    ),
]


@pytest.mark.parametrize(("wrong", "remedy", "right"), ROWS, ids=[row[0][:60] for row in ROWS])
def test_remedy_removes_the_error(run, here, wrong, remedy, right):
    """The message contains the remedy, and the corrected command works."""
    name, *words = shlex.split(wrong)
    refused = run(name, *words, status=None)
    assert refused.status in (1, 2), refused
    assert remedy in refused.err
    name, *words = shlex.split(right)
    run(name, *words)


def test_list_separated_by_nul_without_its_option(run, here):
    """The message names `-0`."""
    listed = "\0".join(map(str, sorted(Path("photos/val").rglob("*.png")))) + "\0"
    assert "add -0" in run("cnn-predict", "-m", "net.onnx", "-", stdin=listed, status=2).err
    run("cnn-predict", "-m", "net.onnx", "-0", "-", stdin=listed)
