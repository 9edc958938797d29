"""Predict images, or extract their features, on a Ray cluster: the files that cnn-predict and cnn-extract write, byte by byte.

    pip install 'ray[data]'
    python ray_images.py predict photos/ -m head.onnx -o predictions.tsv
    python ray_images.py extract photos/ --backbone mobilenet_v2 -o features.npy

Each machine, or each GPU with --gpus, keeps the network loaded in one actor, which works on one share of the images after the other.
Where an actor or its machine is lost, its share is done again. All machines have to see the images and the model under the same paths.
RAY_ADDRESS names the cluster; without it, and without one that runs here, this machine is one.

Exit status: 0 done; 1 failed, nothing written; 2 usage error; 3 done, but some images were skipped.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network otherwise
os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")

try:
    import ray
    from ray.data import ActorPoolStrategy, DataContext
except ImportError as error:
    sys.exit(f"ray_images.py: {error}; install it next to cnnkit: pip install 'ray[data]'")

import cnnkit

#: Images in a share: small enough to do again, large enough for its last batch, which is padded, not to count.
SHARE = 1024

#: As in the tables that the commands write.
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

log = logging.getLogger("cnnkit")


@dataclass
class Outcome:
    """What an actor returns of a share: predictions or features, the skipped images, or why it failed."""

    result: Any = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: cnnkit.CnnkitError | None = None


class Worker:
    """An actor: loads the network at its first share, and works on any number of them."""

    def __init__(self, settings: dict[str, Any], images: "ray.ObjectRef[list[cnnkit.ImageFile]]", folder: str) -> None:
        """Take what all shares have in common; paths are relative to `folder`."""
        self.settings, self.images, self.network = settings, ray.get(images), None
        os.chdir(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Outcome]]:
        """Work on one share, such as 2/8. An error of cnnkit is an outcome; after any other, Ray stops and prints a traceback."""
        (shard,) = batch["shard"]
        outcome = Outcome()
        try:
            if self.network is None:
                self.network = self.load(self.settings)
            outcome.result = self.work(str(shard), lambda path, reason: outcome.skipped.append((path, reason)))
        except cnnkit.CnnkitError as error:
            outcome = Outcome(failed=error)
        return {"outcome": [outcome]}

    def load(self, settings: dict[str, Any]) -> Any:  # noqa: ANN401 - a network of some kind
        """Load the network."""
        raise NotImplementedError

    def work(self, shard: str, skip: Callable[[str, str], None]) -> Any:  # noqa: ANN401 - what goes into the output
        """Return the part of the output."""
        raise NotImplementedError


class Predict(Worker):
    """Predicts a share: rows of the table."""

    def load(self, settings: dict[str, Any]) -> cnnkit.Classifier:
        """Load an exported network."""
        return cnnkit.Classifier(**{name: value for name, value in settings.items() if name != "top"})

    def work(self, shard: str, skip: Callable[[str, str], None]) -> list[cnnkit.Prediction]:
        """Return the best classes of each image."""
        found = self.network.stream(self.images, shard=shard, errors=skip)
        return [row for each in found for row in each.top(self.settings["top"])]


class Extract(Worker):
    """Extracts the features of a share."""

    def load(self, settings: dict[str, Any]) -> cnnkit.FeatureExtractor:
        """Load a backbone, which is exported first where the machine has none in its cache."""
        return cnnkit.FeatureExtractor(**settings)

    def work(self, shard: str, skip: Callable[[str, str], None]) -> cnnkit.Features:
        """Return values and rows of the images."""
        return self.network.extract(self.images, shard=shard, errors=skip)


def outcomes(
    worker: type[Worker], settings: dict[str, Any], images: list[cnnkit.ImageFile], *, share: int, gpus: bool
) -> Iterator[Outcome]:
    """Run the shares of the images on the cluster, and yield their outcomes in order."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    least = min(node["CPU"] for node in nodes)
    workers, needs = sum(int(node["CPU"] // least) for node in nodes), {"num_cpus": least}
    if gpus:
        nodes = [node for node in nodes if node.get("GPU")]
        if not nodes:
            raise cnnkit.DeviceError("the cluster has no GPU; drop --gpus")
        workers = sum(int(node["GPU"]) for node in nodes)
        needs = {"num_gpus": 1, "num_cpus": min(node["CPU"] // node["GPU"] for node in nodes)}
    count = -(-len(images) // share)
    log.info("%d shares of %d images, %d workers", count, len(images), workers)
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.max_consecutive_actor_init_deaths = 3  # a machine may be lost while its actor starts
    context.enable_progress_bars = sys.stderr.isatty()
    shards = ray.data.from_items(
        [{"shard": f"{number}/{count}"} for number in range(1, count + 1)], override_num_blocks=count
    )
    done = shards.map_batches(
        worker,
        fn_constructor_args=(settings, ray.put(images), os.getcwd()),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, count)),
        **needs,
    )
    for row in done.iter_rows():
        yield row["outcome"]


def parsed() -> argparse.Namespace:
    """Read the command line; options have the meaning that they have in cnn-predict and cnn-extract."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("sources", nargs="+", metavar="SOURCE", help="images, folders, manifests")
    common.add_argument("--split", help="only this split")
    common.add_argument("--batch", type=int, metavar="N", help="images per batch")
    common.add_argument("--errors", metavar="FILE.tsv", help="table of skipped images")
    common.add_argument("--share", type=int, default=SHARE, metavar="N", help="images per share [default: %(default)s]")
    common.add_argument("--gpus", action="store_true", help="one actor for each GPU, instead of one for each machine")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", parents=[common], help="predictions, as cnn-predict")
    predict.add_argument("-m", "--model", action="append", required=True, metavar="MODEL.onnx")
    predict.add_argument("-o", "--output", required=True, metavar="FILE.tsv")
    predict.add_argument("--top", type=int, default=1, metavar="K", help="classes per image [default: %(default)s]")
    predict.add_argument("--tta", metavar="NOTATION", help="test-time augmentation")
    extract = commands.add_parser("extract", parents=[common], help="features, as cnn-extract")
    extract.add_argument("-o", "--output", required=True, metavar="FILE.npy")
    for name in ("backbone", "layers", "layer", "weights", "pool", "dtype"):
        extract.add_argument(f"--{name}")
    extract.add_argument("--size", type=int, metavar="PIXELS")
    words = parser.parse_args()
    if words.share < 1:
        parser.error("--share: give 1 or more")
    return words


def main() -> int:
    """Return the exit status."""
    words = parsed()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ray").setLevel(logging.ERROR)
    options = ("model", "top", "tta", "backbone", "layers", "layer", "weights", "pool", "dtype", "size", "batch")
    settings = {name: value for name in options if (value := getattr(words, name, None)) is not None}
    settings["device"] = "cuda" if words.gpus else "cpu"
    skipped: list[tuple[str, str]] = []

    def results(found: Iterator[Outcome]) -> Iterator[Any]:
        for outcome in found:
            if outcome.failed is not None:
                raise outcome.failed
            for path, reason in outcome.skipped:
                log.warning("%s: %s; skipped", path, reason)
            skipped.extend(outcome.skipped)
            yield outcome.result
        if len(skipped) == len(images):
            raise cnnkit.CnnkitError("no image could be used; nothing written")

    try:
        images = cnnkit.find_images(words.sources, split=words.split)
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        worker = Predict if words.command == "predict" else Extract
        found = results(outcomes(worker, settings, images, share=words.share, gpus=words.gpus))
        if worker is Predict:
            cnnkit.write_predictions(words.output, (row for rows in found for row in rows))
        else:
            cnnkit.write_features(words.output, found)
    except cnnkit.CnnkitError as error:
        log.error("%s", error)
        return 2 if isinstance(error, cnnkit.UsageError) else 1
    if words.errors is not None:
        with open(words.errors, "w", encoding="utf-8", errors="surrogateescape") as file:
            for row in [("path", "reason"), *skipped]:
                file.write("\t".join(text.translate(ESCAPES) for text in row) + "\n")
    return 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
