"""Train a convolutional network from scratch.

photos/train/cat/1.jpg       ->  model.pt               the whole network, with the weights of its best epoch
photos/val/cat/2.jpg             model.csv              its history, one row per epoch
                                 model.checkpoint.pt    during training: the checkpoint for --resume
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.errors import UsageError
from cnnkit.train import config
from cnnkit.train.config import ImageTrainConfig, RunConfig
from cnnkit.train.find_lr_config import FindLrConfig
from cnnkit.train.network_config import BoxConfig, NetworkConfig


@cli.image_command
def main(
    sources: cli.options.Labelled = None,
    output: Annotated[
        Path | None,
        cli.Option(
            "--output",
            "-o",
            metavar="FILE.pt",
            help="Model to write; an existing file is replaced at the end. [required]",
        ),
    ] = None,
    val: cli.options.Val = None,
    hold_out: cli.options.HoldOut = None,
    *,
    network: NetworkConfig,
    train: ImageTrainConfig,
    box: BoxConfig,
    run: RunConfig,
    find: FindLrConfig,
    advise: Annotated[bool, cli.Option("--advise", hidden=True, help="Now the command cnn-advise.")] = False,
    backbone: Annotated[str | None, cli.Option("--backbone", hidden=True, help="See cnn-finetune.")] = None,
    weights: Annotated[str | None, cli.Option("--weights", hidden=True, help="See cnn-finetune.")] = None,
    errors: cli.options.Errors = None,
    folders: cli.options.Folders = None,
    as_json: cli.options.Json = False,
) -> None:
    """Train a convolutional network from scratch.

    Reads a folder photos/train/CLASS/image.jpg with photos/val/ next to train/, or a manifest with the splits train and val.
    After each epoch the network is validated on val; the weights of the best epoch are kept. Writes the model to FILE.pt and its
    history to FILE.csv. Under torchrun, several processes train together. examples/dogs-vs-cats/ trains a small convnet.

    With --predict-box, the network also learns where the object is: the column box of the manifest, x,y,width,height in pixels of the
    upright image. Images without a box train the class only. examples/boxes/ is an example.

    Examples:
      cnn-train split.tsv -o model.pt --epochs 30 \\
          --layers "3 * (conv 32 k3 relu, pool 2), flatten, dense 64 relu, dropout 0.5"
      cnn-train photos/ -o model.pt --arch resnet18 --schedule cosine --epochs 90 \\
          --augment "rotate 20, zoom 0.2, hflip"
      cnn-train photos/train --val photos/val -o model.pt --layers @net.txt --resume
      cnn-train folds.tsv --hold-out fold0 -o fold0.pt --arch resnet18
      cnn-train photos/ --arch resnet18 --find-lr lr.png > lr.tsv
      cnn-train boxes.tsv -o model.pt --predict-box --size 64 \\
          --layers "3 * (conv 32 k3 relu, pool 2), gap"
      torchrun --standalone --nproc-per-node 2 --no-python \\
          cnn-train photos/ -o model.pt --arch resnet50
    """
    if advise:
        raise UsageError("--advise is now a separate command: cnn-advise")
    if backbone is not None or weights is not None:
        raise UsageError(
            "cnn-train starts from random weights: use cnn-finetune for --backbone and --weights, or cnn-advise"
        )
    data = cli.labelled_images(sources, val=val, hold_out=hold_out, folders=folders)
    output = config.model_path(output) if find.find_lr is None else find.checked(train, run, output=output)
    data = find.needed(data, validates=False)
    train = train.checked(classes=len(data.classes), has_val=bool(data.val), multi_label=data.multi_label)
    network = network.checked(train.loss, classes=len(data.classes), multi_label=data.multi_label)
    box = box.checked(train)
    run = run.checked()

    cli.keep_freed_memory()
    if find.find_lr is not None:
        from cnnkit.train import find_lr, find_lr_plot, scratch

        with (
            cli.callbacks("training", errors=errors) as callbacks,
            scratch.preparing(
                data, output, network=network, train=train, run=run, box=box, callbacks=callbacks
            ) as trainer,
        ):
            steps = find_lr_plot.conclude(trainer.find_lr(), output, writes=cli.is_first())
        if cli.is_first():
            cli.emit(steps, as_json, columns=find_lr.COLUMNS)
        return
    from cnnkit.train.scratch import train_from_scratch

    with cli.callbacks("training", errors=errors, epochs_as_json=as_json) as callbacks:
        result = train_from_scratch(data, output, network=network, train=train, run=run, box=box, callbacks=callbacks)
    cli.conclude(result, as_json)


if __name__ == "__main__":
    main()
