#!/usr/bin/env bash
# All images that show what a network detects: heat maps, feature maps, filters, kernels, a dream and a style, written to OUT/:
#
#   examples/see.sh                                  for the network for handwritten digits that make quickstart trains
#   DATA=folder examples/see.sh                      for MobileNetV2 and SqueezeNet, on photographs
#
# DATA has weights/mobilenet_v2.pth and weights/squeezenet1_1.pth, torchvision's state_dicts, and photographs in pictures/, whose
# names are below; other photographs and networks work as well.
set -euo pipefail

here=$(dirname "$0")
OUT=${OUT:-see}
DATA=${DATA:-$here/../../shared/data}
BIN=${BIN:-}            # folder of the commands, with a slash at the end; empty if they are on the PATH

mkdir -p "$OUT"
if [ -d "$DATA" ]; then
    whole=(mobilenet_v2 --weights "$DATA/weights/mobilenet_v2.pth")
    network=(squeezenet1_1 --weights "$DATA/weights/squeezenet1_1.pth")
    photos=("$DATA/pictures/coral_cat.bmp" "$DATA/pictures/coral_parrot.jpg")
    large=("$DATA/pictures/coral_hot_dog.jpg")
    image=$DATA/pictures/coral_cat.bmp
    start=$DATA/pictures/coral_sunflower.bmp
    prepare=(--fit squash)
    fine=(--fine --box 0.5)
    early=features.1 late=features.12 layer=features.9 deep=features.7
    maps=(--channels 0-8)
    patterns=(--filters 0-11 --size 72)
    dream=(--size 256)
    painting=$start painted=(--size 224 --steps 60)
else
    digits=$OUT/digits
    make -s -f "$here/digits/Makefile" OUT="$digits" BIN="$BIN" >&2
    whole=("$digits/head.pt")
    network=("$digits/head.pt")
    photos=("$digits"/digits/?/000[0-7].png)
    large=("$digits"/digits/8/0008.png)
    image=("$digits"/digits/3/0003.png)
    start=$image
    prepare=()
    fine=(--contrast)       # instead of --fine: its head takes maps of one size only
    early=conv1 late=conv2 layer=conv2 deep=conv2
    maps=(--channels 0-8)
    patterns=(--filters 0-11)
    dream=(--size 64 --octaves 2)
    painting=${large[0]} painted=(--size 64 --steps 20)
fi

# Heat maps of the predicted class: overlays with a box around the hot region, their faithfulness, and a contact sheet
"${BIN}cnn-cam" -m "${whole[@]}" "${photos[@]}" "${large[@]}" -o "$OUT/cam" --force --box 0.5 --faithful --sheet "$OUT/cam.png" "${prepare[@]}"
# With twice the rows and columns (--fine); or with evidence against the class (--contrast)
"${BIN}cnn-cam" -m "${whole[@]}" "${large[@]}" -o "$OUT/fine" --force "${prepare[@]}" "${fine[@]}"
# Feature maps of an early and a late layer: edges, then few and abstract features; the table has the share of zeros
"${BIN}cnn-maps" -m "${network[@]}" "$image" -o "$OUT/maps" --force --layer "$early" --layer "$late" "${maps[@]}"
# Patterns that activate filters most, the kernels of the first layer, and a dream: an image that activates a whole layer
"${BIN}cnn-filters" "${network[@]}" -o "$OUT/filters.png" --layer "$layer" "${patterns[@]}"
"${BIN}cnn-filters" "${network[@]}" -o "$OUT/kernels.png" --kernels > "$OUT/kernels.tsv"
"${BIN}cnn-dream" "${network[@]}" "$start" -o "$OUT/dream.png" --layer "$deep" "${dream[@]}"
# An image with the colours and strokes of another one
"${BIN}cnn-style" "$image" --style "$painting" -m "${network[@]}" -o "$OUT/style.png" "${painted[@]}"
