#!/usr/bin/env bash
# Every kind of picture that shows what a network sees, into OUT/:
#
#   examples/see.sh                                  of the network for handwritten digits that make quickstart trains
#   DATA=folder examples/see.sh                      of MobileNetV2 and SqueezeNet, on photographs
#
# DATA holds weights/mobilenet_v2.pth and weights/squeezenet1_1.pth, torchvision's state_dicts, and photographs in pictures/. The names
# of those that are shown are below; other photographs and networks will do as well.
set -euo pipefail

here=$(dirname "$0")
OUT=${OUT:-see}
DATA=${DATA:-$here/../../shared/data}
BIN=${BIN:-}            # where the commands are, with a slash at the end; on the PATH unless said

mkdir -p "$OUT"
if [ -d "$DATA" ]; then
    whole=(mobilenet_v2 --weights "$DATA/weights/mobilenet_v2.pth")
    network=(squeezenet1_1 --weights "$DATA/weights/squeezenet1_1.pth")
    pictures=("$DATA/pictures/coral_cat.bmp" "$DATA/pictures/coral_parrot.jpg")
    two=("$DATA/pictures/coral_hot_dog.jpg")
    picture=$DATA/pictures/coral_cat.bmp
    dreamt=$DATA/pictures/coral_sunflower.bmp
    look=(--fit squash)
    fine=(--fine --box 0.5)
    early=features.1 late=features.12 layer=features.9 deep=features.7
    maps=(--channels 0-8)
    patterns=(--filters 0-11 --size 72)
    dream=(--size 256)
else
    digits=$OUT/digits
    make -s -f "$here/digits/Makefile" OUT="$digits" BIN="$BIN" >&2
    whole=("$digits/head.pt")
    network=("$digits/head.pt")
    pictures=("$digits"/digits/?/000[0-7].png)
    two=("$digits"/digits/8/0008.png)
    picture=("$digits"/digits/3/0003.png)
    dreamt=$picture
    look=()
    fine=(--contrast)       # its head takes maps of one size alone
    early=conv1 late=conv2 layer=conv2 deep=conv2
    maps=(--channels 0-8)
    patterns=(--filters 0-11)
    dream=(--size 64 --octaves 2)
fi

# Where it sees what it names: overlays with the hot region framed, how far to believe them, and a sheet of all
"${BIN}cnn-cam" -m "${whole[@]}" "${pictures[@]}" "${two[@]}" -o "$OUT/cam" --force --box 0.5 --faithful --sheet "$OUT/cam.png" "${look[@]}"
# With twice the rows and columns; or what speaks against the class
"${BIN}cnn-cam" -m "${whole[@]}" "${two[@]}" -o "$OUT/fine" --force "${look[@]}" "${fine[@]}"
# What layers answer, early and late: edges first, few and abstract things last; the table says how many values are zero
"${BIN}cnn-maps" -m "${network[@]}" "$picture" -o "$OUT/maps" --force --layer "$early" --layer "$late" "${maps[@]}"
# What filters look for, what the first ones are, and what a layer makes of a picture
"${BIN}cnn-filters" "${network[@]}" -o "$OUT/filters.png" --layer "$layer" "${patterns[@]}"
"${BIN}cnn-filters" "${network[@]}" -o "$OUT/kernels.png" --kernels > "$OUT/kernels.tsv"
"${BIN}cnn-dream" "${network[@]}" "$dreamt" -o "$OUT/dream.png" --layer "$deep" "${dream[@]}"
