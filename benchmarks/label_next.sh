#!/usr/bin/env bash
# Label 100 of 409 photographs, by margin and at random, after 102: accuracy on 511 others, for five divisions. Run it in a folder that has
# flowers/ and pool.npy (cnn-extract flowers/ -o pool.npy --backbone mobilenet_v2 --weights mobilenet_v2.pth). Prints for each division the accuracy
# of 102, of 100 more by margin and of 100 more at random.
options="--solver lbfgs --standardize --l2 1 --quiet"
accuracy() { cnn-train-head $1.npy -o $1.pt $options --json | jq .val_accuracy; }
for seed in 1 2 3 4 5; do
  cnn-split flowers/ --ratio 0.1,0.4,0.5 --names train,pool,val --seed $seed --quiet > division.tsv
  for name in start margin random; do ln -sf pool.npy $name.npy; ln -sf pool.json $name.json; done
  awk -F'\t' -v OFS='\t' 'NR == FNR { split_of[$1] = $3; next } FNR > 1 { $3 = split_of[$1] } 1' division.tsv pool.tsv > start.tsv
  first=$(accuracy start)
  cnn-export start.pt -o start.onnx --head-only --quiet > export.tsv
  cnn-predict -m start.onnx start.npy --split pool --by-margin --quiet | sed 1d | cut -f 1 > by-margin.txt
  awk -F'\t' '$3 == "pool" { print $1 }' start.tsv | awk -v seed=$seed 'BEGIN { srand(seed) } { print rand() "\t" $0 }' | sort | cut -f 2 > at-random.txt
  for way in margin random; do
    list=by-margin.txt; test $way = random && list=at-random.txt
    head -n 100 $list | awk -F'\t' -v OFS='\t' 'NR == FNR { chosen[$1]; next } $1 in chosen { $3 = "train" } 1' - start.tsv > $way.tsv
  done
  echo "$seed $first margin $(accuracy margin) random $(accuracy random)"
done
