# Extract the features of a folder of images in shards, two at a time; a shard that exists is not extracted again:
#
#     make -f shards.mk -j 2 PHOTOS=photos SHARDS=8
#     make -f shards.mk -j 4 PHOTOS=photos SHARDS=8 GPUS=4
#
# With GPUS=4, the shards take turns on four GPUs; without it, they all take --device auto, the first GPU.
# Shards that exist stay as they are: delete parts/ after images or their labels, PHOTOS or BACKBONE have changed. An interrupted run goes on.
#
# On one machine, this is not faster than a run without shards, which uses all cores; it is for machines with several GPUs, or for sets of
# images that take days. With RUN="srun -n1 --exclusive" each shard is a step of a SLURM job.

PHOTOS ?= photos
OUT ?= parts
SHARDS ?= 8
BACKBONE ?= --backbone mobilenet_v2
GPUS ?=
BIN ?=
RUN ?=

PARTS := $(foreach number,$(shell seq $(SHARDS)),$(OUT)/part-$(number)-of-$(SHARDS).npy)

$(OUT)/features.npy: $(PARTS)
	$(BIN)cnn-extract --join $^ -o $@

# Status 3: images were skipped, which are named on stderr
$(OUT)/part-%-of-$(SHARDS).npy:
	mkdir -p $(OUT)
	$(RUN) $(BIN)cnn-extract $(PHOTOS) --shard $*/$(SHARDS) -o $@ --resume $(BACKBONE) $(if $(GPUS),--device cuda:$$(( ($* - 1) % $(GPUS) ))) || [ $$? -eq 3 ]
