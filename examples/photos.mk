# From a folder of class folders, photos/CLASS/image.jpg, to a checked model and heat maps of its mistakes:
#
#     make -f examples/photos.mk PHOTOS=photos WEIGHTS=default
#
#     findings.tsv       faults of the images (cnn-check)
#     clean.tsv          the images without broken ones and duplicates
#     split.tsv          training, validation and test set (cnn-split)
#     train.npy val.npy  features of the training and validation set (cnn-extract)
#     model.pt           backbone and trained head (cnn-train-head)
#     model.onnx         the same model, compared with model.pt on the validation set (cnn-export)
#     predictions.tsv    the probability of every class for the images of the test set (cnn-predict)
#     evaluation.tsv     accuracy and other measures; confusion.png (cnn-eval)
#     mistakes.tsv       the worst mistakes; mistakes.png: their heat maps, of the predicted and of the true class (cnn-cam)
#     results.txt        where the results are, and the accuracy
#
# They lie in OUT. The next make remakes what depends on images that were added, changed or removed, and on changed variables.
# `make gate` fails if cnn-check finds faults in split.tsv, or a measure is below FAIL_UNDER. docs/makefile.md explains each rule.

PHOTOS ?= photos
OUT ?= photos-model
BACKBONE ?= mobilenet_v2
# A file with a state_dict; default, which is downloaded; or none for random weights.
WEIGHTS ?= default
EXTRACT ?= --backbone $(BACKBONE) --weights $(WEIGHTS)
# Options of cnn-train-head, such as --head "dropout 0.5" --epochs 30.
HEAD ?= --solver lbfgs --standardize
# Options of cnn-check, such as --probes width,height,bytes.
CHECK ?=
RATIO ?= 70,15,15
SEED ?= 0
# Options of cnn-split. With --stable, images added later do not move others between the sets.
SPLIT ?= --ratio $(RATIO) --seed $(SEED) --stable
# Number of mistakes to explain.
WORST ?= 20
FAIL_UNDER ?= accuracy=0.8
# Folder of the commands, with a slash at the end; empty for those on the PATH.
BIN ?=
# GNU find: gfind on macOS.
FIND ?= find

ifneq ($(filter 3.%,$(MAKE_VERSION)),)
$(error this needs GNU make 4, and $(MAKE) is $(MAKE_VERSION); it is called gmake on macOS)
endif
ifneq ($(words $(OUT)),1)
$(error OUT="$(OUT)": give a folder whose name has no spaces)
endif
ifneq ($(findstring ',$(PHOTOS)),)
$(error PHOTOS="$(PHOTOS)": a quote in the name is not supported; rename the folder)
endif
ifeq ($(shell test -d '$(PHOTOS)' && echo yes),)
$(error PHOTOS="$(PHOTOS)": no such folder; give one that has a folder for each class, PHOTOS/CLASS/image.jpg)
endif
ifneq ($(words $(BACKBONE)),1)
$(error BACKBONE="$(BACKBONE)": give one network, such as BACKBONE=mobilenet_v2)
endif
ifneq ($(words $(WEIGHTS)),1)
$(error WEIGHTS="$(WEIGHTS)": give a file whose name has no spaces, default or none)
endif
ifeq ($(filter default none,$(WEIGHTS))$(wildcard $(WEIGHTS)),)
$(error WEIGHTS="$(WEIGHTS)": no such file; give a file with the weights of $(BACKBONE), default or none)
endif
ifneq ($(filter . ./,$(OUT)),)
$(error OUT="$(OUT)": the current folder is not supported; give another folder, such as OUT=photos-model)
endif
# The nearest folder that exists; realpath -m would do, but macOS has no -m.
ifneq ($(shell d='$(OUT)'; until test -d "$$d"; do d="$$(dirname "$$d")"; done; \
    case "$$(cd "$$d" && pwd -P)/" in ("$$(cd '$(PHOTOS)' && pwd -P)"/*) echo inside;; esac),)
$(error OUT="$(OUT)" lies in PHOTOS="$(PHOTOS)", where its drawings would be taken for photos; give another folder)
endif
ifneq ($(shell mkdir -p '$(OUT)' && echo yes),yes)
$(error OUT="$(OUT)": the folder cannot be made)
endif

# The list of images and the variables go into files that are replaced only when their content changes.
replace = { cmp -s $(OUT)/$(1).new $(OUT)/$(1) && rm $(OUT)/$(1).new || mv $(OUT)/$(1).new $(OUT)/$(1); }
remember = $(file >$(OUT)/$(1).new,$(2))$(shell $(call replace,$(1)))

# Name, size and time of every file; hidden ones are not images.
ifneq ($(shell $(FIND) -L '$(PHOTOS)' -mindepth 1 -name '.*' -prune -o -type f -printf '%P\t%s\t%T@\n' > $(OUT)/photos.list.new && \
    LC_ALL=C sort -o $(OUT)/photos.list.new $(OUT)/photos.list.new && $(call replace,photos.list) && echo yes),yes)
$(error PHOTOS="$(PHOTOS)": its files cannot be listed; this needs GNU find, which FIND=gfind names on macOS)
endif
$(call remember,check.settings,$(PHOTOS) $(CHECK))
$(call remember,split.settings,$(SPLIT))
$(call remember,extract.settings,$(EXTRACT))
$(call remember,head.settings,$(HEAD) $(SEED))
$(call remember,mistakes.settings,$(WORST))

# An image that cannot be used is named and skipped, and the command exits with 3.
OR_SKIPPED := || [ $$? -eq 3 ]
# A command does not touch an output whose content stays the same; make needs a new time.
DONE = @touch $@

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all gate

all: $(OUT)/results.txt

# A pattern rule with two targets runs once for both of them.
%/findings.tsv %/clean.tsv: %/photos.list %/check.settings
	$(BIN)cnn-check '$(PHOTOS)' $(CHECK) --fix $*/clean.tsv --quiet --table findings -o $*/findings.tsv $(OR_SKIPPED)
	@touch $*/findings.tsv $*/clean.tsv

$(OUT)/split.tsv: $(OUT)/clean.tsv $(OUT)/split.settings
	$(BIN)cnn-split $< $(SPLIT) --manifest $@ $(OR_SKIPPED)
	$(DONE)

# Features are three files; the .json is written last.
$(OUT)/train.json $(OUT)/val.json: $(OUT)/%.json: $(OUT)/split.tsv $(OUT)/extract.settings $(filter-out default none,$(WEIGHTS))
	$(BIN)cnn-extract $< --split $* -o $(OUT)/$*.npy $(EXTRACT) $(OR_SKIPPED)
	$(DONE)

$(OUT)/model.pt: $(OUT)/train.json $(OUT)/val.json $(OUT)/head.settings
	$(BIN)cnn-train-head $(OUT)/train.npy --val $(OUT)/val.npy -o $@ --seed $(SEED) $(HEAD)
	$(DONE)

$(OUT)/model.onnx: $(OUT)/model.pt $(OUT)/split.tsv
	$(BIN)cnn-export $< -o $@ --verify $(OUT)/split.tsv --split val $(OR_SKIPPED)
	$(DONE)

$(OUT)/predictions.tsv: $(OUT)/model.onnx $(OUT)/split.tsv
	$(BIN)cnn-predict -m $< $(OUT)/split.tsv --split test --top all -o $@ $(OR_SKIPPED)
	$(DONE)

EVAL = $(BIN)cnn-eval $(OUT)/predictions.tsv --truth $(OUT)/split.tsv --split test

$(OUT)/evaluation.tsv: $(OUT)/predictions.tsv $(OUT)/split.tsv
	$(EVAL) --confusion $(OUT)/confusion.png -o $@
	$(DONE)

# cnn-cam reads from standard input, where paths are relative to the current folder. Without mistakes there is no sheet.
$(OUT)/mistakes.tsv: $(OUT)/predictions.tsv $(OUT)/model.pt $(OUT)/mistakes.settings
	$(EVAL) --worst $(WORST) > $@.new
	@rm -f $(OUT)/mistakes.png $(OUT)/maps.tsv
	if [ $$(wc -l < $@.new) -gt 1 ]; then \
	    $(BIN)cnn-cam -m $(OUT)/model.pt - --class top --class true --sheet $(OUT)/mistakes.png < $@.new > $(OUT)/maps.tsv $(OR_SKIPPED); fi
	@mv $@.new $@

# Value of a measure, number of findings of a level, and number of images that are used.
measure = $$(awk '$$1 == "$(1)" { print $$2 }' $(OUT)/evaluation.tsv)
level = $$(grep -c '^$(1)' $(OUT)/findings.tsv)
images = $$(($$(wc -l < $(OUT)/split.tsv) - 1))

$(OUT)/results.txt: $(OUT)/evaluation.tsv $(OUT)/mistakes.tsv
	@{ echo "results:"; \
	echo "  images       $(OUT)/split.tsv: $(images) images"; \
	echo "  findings     $(OUT)/findings.tsv: errors $(call level,error), warnings $(call level,warning)"; \
	echo "  model        $(OUT)/model.onnx; classify other images with cnn-predict -m $(OUT)/model.onnx IMAGES"; \
	echo "  predictions  $(OUT)/predictions.tsv"; \
	echo "  evaluation   $(OUT)/evaluation.tsv: accuracy $(call measure,accuracy) on $(call measure,n) test images"; \
	if [ -f $(OUT)/mistakes.png ]; then echo "  mistakes     $(OUT)/mistakes.png, $(OUT)/mistakes.tsv"; else echo "  mistakes     none"; fi; \
	} > $@.new && mv $@.new $@ && cat $@

# The features, the model and the measures come from split.tsv; images that are not in it, broken ones for example, are in findings.tsv.
gate: $(OUT)/predictions.tsv
	$(BIN)cnn-check $(OUT)/split.tsv $(CHECK) --table findings --fail
	$(EVAL) $(FAIL_UNDER:%=--fail-under %)
