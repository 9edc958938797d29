"""Split a folder with split-folders, by symbolic links: splitfolders_split.py FOLDER OUTPUT."""

import sys

import splitfolders

splitfolders.ratio(sys.argv[1], output=sys.argv[2], seed=1, ratio=(0.7, 0.15, 0.15), move="symlink")
