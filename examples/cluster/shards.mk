# Extract the features of a folder of images in shards, two at a time; a shard that exists is not extracted again:
#
#     make -f shards.mk -j 2 PHOTOS=photos SHARDS=8
#
# On one machine, this is not faster than a run without shards, which uses all cores; it is for machines with several GPUs, or for sets of
# images that take days. With RUN="srun -n1 --exclusive" each shard is a step of a SLURM job.

PHOTOS ?= photos
OUT ?= parts
SHARDS ?= 8
BACKBONE ?= --backbone mobilenet_v2
BIN ?=
RUN ?=

PARTS := $(foreach number,$(shell seq $(SHARDS)),$(OUT)/part-$(number)-of-$(SHARDS).npy)

$(OUT)/features.npy: $(PARTS)
	$(BIN)cnn-extract --join $^ -o $@

# Status 3: images were skipped, which are named on stderr
$(OUT)/part-%-of-$(SHARDS).npy:
	mkdir -p $(OUT)
	$(RUN) $(BIN)cnn-extract $(PHOTOS) --shard $*/$(SHARDS) -o $@ --resume $(BACKBONE) || [ $$? -eq 3 ]
