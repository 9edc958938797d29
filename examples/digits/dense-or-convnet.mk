# A dense network compared with a convnet, on handwritten digits that are not centred; fails unless the convnet is better.
#
#     make -f examples/digits/dense-or-convnet.mk             with the cnn-* commands on the PATH
#
# On centred digits a dense network is as good: one 3 has almost the same pixels as another. A digit that is shifted by two
# pixels is a new pattern to a dense network, but the same one to a convolution. Copies of a digit stay in one split:
# cnn-augment gives them a group, and cnn-split keeps groups together.

OUT ?= digits-compared
SEEDS ?= 0 1 2
EPOCHS ?= 20
BIN ?=
PYTHON := $(if $(BIN),$(BIN)python,python3)
HERE := $(dir $(lastword $(MAKEFILE_LIST)))

DENSE := "flatten, dense 512 relu, dropout 0.5"
CONVNET := "conv 32 k3 same bn relu, pool 2, conv 64 k3 same bn relu, pool 2, conv 128 k3 same bn relu, flatten, dropout 0.5"
TRAIN = $(BIN)cnn-train $(OUT)/split.tsv -o $@ --grey --size 16 --epochs $(EPOCHS) --seed $*

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: compare

# For each seed, the convnet must be more accurate on the test set than the dense network, by at least 0.0005.
compare: $(SEEDS:%=$(OUT)/dense-%.json) $(SEEDS:%=$(OUT)/convnet-%.tsv)
	for seed in $(SEEDS); do \
	    dense=$$(sed 's/.*"accuracy": \([0-9.]*\),.*/\1/' $(OUT)/dense-$$seed.json); \
	    echo "seed $$seed: dense $$dense" >&2; \
	    $(BIN)cnn-eval $(OUT)/convnet-$$seed.tsv --truth $(OUT)/split.tsv --split test --fail-under accuracy=$$(awk "BEGIN { print $$dense + 0.0005 }") || exit; \
	done

$(OUT)/digits.written: $(HERE)write_digits.py
	mkdir -p $(OUT)
	$(PYTHON) $< $(OUT)/digits
	touch $@

$(OUT)/moved/augment.tsv: $(OUT)/digits.written
	$(BIN)cnn-augment $(OUT)/digits -o $(OUT)/moved --copies 1 --augment "shift 0.25, fill constant" --force

$(OUT)/split.tsv: $(OUT)/moved/augment.tsv
	$(BIN)cnn-split $< --ratio 0.6,0.2,0.2 --seed 0 --manifest $@

$(OUT)/dense-%.pt: $(OUT)/split.tsv
	$(TRAIN) --layers $(DENSE)

$(OUT)/convnet-%.pt: $(OUT)/split.tsv
	$(TRAIN) --layers $(CONVNET)

$(OUT)/%.onnx: $(OUT)/%.pt
	$(BIN)cnn-export $< -o $@

$(OUT)/%.tsv: $(OUT)/%.onnx
	$(BIN)cnn-predict -m $< $(OUT)/split.tsv --split test --top 10 -o $@
	@touch $@

$(OUT)/%.json: $(OUT)/%.tsv
	$(BIN)cnn-eval $< --truth $(OUT)/split.tsv --split test --json -o $@
	@touch $@
