#!/usr/bin/env bash
# How far to trust a classifier: the set is checked, folds vote, answers are averaged, probabilities calibrated, doubt is withheld.
#
#   examples/trust.sh                                on the handwritten digits that scikit-learn carries: to see it run, they leave little to gain
#   DATA=folder examples/trust.sh                    on dogs-vs-cats/ with MobileNetV2, weights/mobilenet_v2.pth
#
# Words behind it go to examples/folds/Makefile: FOLDS=3, -j2. All lies in OUT/ afterwards; what is printed are the figures.
set -euo pipefail

here=$(dirname "$0")
OUT=${OUT:-trust}
DATA=${DATA:-$here/../../shared/data}
LAYER=${LAYER:-features.14}     # not MobileNetV2's last, so that single heads leave something to gain
BIN=${BIN:-}            # where the commands are, with a slash at the end; on the PATH unless said

mkdir -p "$OUT"
if [ -d "$DATA" ]; then
    photos=$DATA/dogs-vs-cats
    base="--backbone mobilenet_v2 --weights $DATA/weights/mobilenet_v2.pth --layer $LAYER"
    averaged=(--tta hflip)
    probes=all
else
    "${BIN:+$BIN}python3" "$here/digits/write_digits.py" "$OUT/digits"
    photos=$OUT/digits
    base='--layers "conv 64 k3 same relu, pool 2, conv 128 k3 same relu, pool 2" --weights none --size 16 --pool flatten'
    averaged=(--tta "crop 0.9" --views 8)
    probes=width,bytes,name     # colours of 8 x 8 pixels are content
fi
split=$OUT/folds/split.tsv
parted=$OUT/folds/folds.tsv

step() { printf '\n%s\n' "$1"; }

step "Findings:"
"${BIN}cnn-check" "$photos" --probes "$probes" --fix "$OUT/clean.tsv"

# A quarter is kept apart for the test; of the rest each head learns from all folds but its own, which it then answers. With a weak penalty:
# such heads are too sure, and differ
folds() {
    make -s -f "$here/folds/Makefile" PHOTOS="$OUT/clean.tsv" OUT="$OUT/folds" BASE="$base" HEAD="--solver lbfgs --l2 0.0001" BIN="$BIN" "$@"
}
folds predictions "$@" >&2
folds figures "$@"

step "One head on the test set (a), and the mean of its answers over views of each picture (b)"
"${BIN}cnn-predict" -m "$OUT/folds/fold0.onnx" "$split" --split test --top 10 "${averaged[@]}" > "$OUT/averaged.tsv"
"${BIN}cnn-compare" "$OUT/folds/test-fold0.tsv" "$OUT/averaged.tsv" --truth "$split" --split test

step "Its temperature, fitted on the fold that it has not seen"
"${BIN}cnn-predict" -m "$OUT/folds/fold0.onnx" "$parted" --split fold0 --top 10 --json |
    "${BIN}cnn-calibrate" --truth "$parted" --split fold0 -m "$OUT/folds/fold0.onnx" -o "$OUT/calibrated.onnx" --reliability "$OUT/reliability.png"

step "What that does to the test set"
"${BIN}cnn-predict" -m "$OUT/calibrated.onnx" "$split" --split test --top 10 > "$OUT/calibrated.tsv"
for each in folds/test-fold0 calibrated; do
    "${BIN}cnn-eval" "$OUT/$each.tsv" --truth "$split" --split test | grep -E "^(accuracy|log_loss|ece)	" | sed "s,^,$each	,"
done

step "The calibrated head on the test set: how sure must it be?"
"${BIN}cnn-eval" "$OUT/calibrated.tsv" --truth "$split" --split test --coverage

step "What the size of a picture and its file are worth to a head"
"${BIN}cnn-train-head" "$OUT/folds/features.npy" --hold-out fold0 --solver lbfgs --l2 0.0001 --with width,height,bytes
