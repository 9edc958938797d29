#!/usr/bin/env bash
# How far to trust a classifier: check the dataset, cross-validate, vote, average over views, calibrate the probabilities, reject
# uncertain predictions, and test whether image sizes leak the class.
#
#   examples/trust.sh                                on the handwritten digits of scikit-learn: quick, but there is little to improve
#   DATA=folder examples/trust.sh                    on dogs-vs-cats/ with MobileNetV2, weights/mobilenet_v2.pth
#
# Further arguments, such as FOLDS=3 or -j2, are passed to examples/folds/Makefile. Files are written to OUT/, figures printed.
set -euo pipefail

here=$(dirname "$0")
OUT=${OUT:-trust}
DATA=${DATA:-$here/../../shared/data}
LAYER=${LAYER:-features.14}     # not MobileNetV2's last layer, so that a vote can improve on single heads
BIN=${BIN:-}            # folder of the commands, with a slash at the end; empty if they are on the PATH

mkdir -p "$OUT"
if [ -d "$DATA" ]; then
    photos=$DATA/dogs-vs-cats
    backbone="--backbone mobilenet_v2 --weights $DATA/weights/mobilenet_v2.pth --layer $LAYER"
    averaged=(--tta hflip)
    probes=all
else
    "${BIN:+$BIN}python3" "$here/digits/write_digits.py" "$OUT/digits"
    photos=$OUT/digits
    backbone='--layers "conv 64 k3 same relu, pool 2, conv 128 k3 same relu, pool 2" --weights none --size 16 --pool flatten'
    averaged=(--tta "crop 0.9" --views 8)
    probes=width,bytes,name     # not colours: in 8 x 8 pixels they are the content
fi
split=$OUT/folds/split.tsv
parted=$OUT/folds/folds.tsv

step() { printf '\n%s\n' "$1"; }

step "Findings:"
"${BIN}cnn-check" "$photos" --probes "$probes" --fix "$OUT/clean.tsv"

# A quarter of the images is the test set; on the rest, one head per fold is trained without that fold, and predicts it. The penalty is
# weak: such heads are overconfident, and differ from each other
folds() {
    make -s -f "$here/folds/Makefile" PHOTOS="$OUT/clean.tsv" OUT="$OUT/folds" BACKBONE="$backbone" HEAD="--solver lbfgs --l2 0.0001" BIN="$BIN" "$@"
}
folds predictions "$@" >&2
folds figures "$@"

step "One head on the test set (a), and the same head averaged over views of each image (b)"
"${BIN}cnn-predict" -m "$OUT/folds/fold0.onnx" "$split" --split test --top 10 "${averaged[@]}" -o "$OUT/averaged.tsv"
"${BIN}cnn-compare" "$OUT/folds/test-fold0.tsv" "$OUT/averaged.tsv" --truth "$split" --split test

step "Temperature of the head, fitted on the fold that it was not trained on"
"${BIN}cnn-predict" -m "$OUT/folds/fold0.onnx" "$parted" --split fold0 --top 10 --json |
    "${BIN}cnn-calibrate" --truth "$parted" --split fold0 -m "$OUT/folds/fold0.onnx" -o "$OUT/calibrated.onnx" --reliability "$OUT/reliability.png"

step "The head on the test set before and after calibration"
"${BIN}cnn-predict" -m "$OUT/calibrated.onnx" "$split" --split test --top 10 -o "$OUT/calibrated.tsv"
for each in folds/test-fold0 calibrated; do
    "${BIN}cnn-eval" "$OUT/$each.tsv" --truth "$split" --split test | grep -E "^(accuracy|log_loss|ece)	" | sed "s,^,$each	,"
done

step "Accuracy of the calibrated head on the test set if uncertain predictions are rejected"
"${BIN}cnn-eval" "$OUT/calibrated.tsv" --truth "$split" --split test --coverage

step "A head with and without the sizes of images and files: a gain points to a leak"
"${BIN}cnn-train-head" "$OUT/folds/features.npy" --hold-out fold0 --solver lbfgs --l2 0.0001 --with width,height,bytes
