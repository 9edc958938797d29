"""Train a convolutional network from scratch.

photos/train/cat/1.jpg       ->  model.pt               the whole network, with the weights of its best epoch
photos/val/cat/2.jpg             model.csv              its history, one row an epoch
                                 model.checkpoint.pt    while it goes on: what --resume goes on from
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import (
    Amp,
    ClassWeights,
    Fit,
    Initializer,
    Loss,
    Monitor,
    Normalize,
    Optimizer,
    Schedule,
)
from cnnkit.errors import UsageError


@cli.command
def main(
    sources: cli.Labelled = None,
    output: Annotated[
        Path | None,
        cli.Option(
            "--output", "-o", metavar="FILE.pt", help="Where the model goes; an earlier one there stays until then."
        ),
    ] = None,
    val: cli.Val = None,
    hold_out: cli.HoldOut = None,
    layers: Annotated[
        str | None,
        cli.Option(
            "--layers",
            metavar="NOTATION",
            help="The network, or @FILE; cnn-dims measures what is written here.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    arch: Annotated[
        str | None,
        cli.Option(
            "--arch",
            metavar="NAME",
            help="A torchvision network, or timm:NAME, with random weights.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    head: Annotated[
        str,
        cli.Option(
            "--head",
            metavar="NOTATION",
            help="With --arch: layers between its average pool and the last dense one.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = "",
    size: Annotated[
        int | None,
        cli.Option(
            "--size",
            min=1,
            help="Side of the input in pixels. [default: 150; --arch: the network's own]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        cli.Option(
            "--fit", help="How a picture becomes a square. [default: squash; --arch: crop]", rich_help_panel=cli.NETWORK
        ),
    ] = None,
    grey: Annotated[
        bool,
        cli.Option("--grey", help="One channel, brightness, computed inside the network.", rich_help_panel=cli.NETWORK),
    ] = False,
    normalize: Annotated[
        Normalize,
        cli.Option(
            "--normalize",
            help="What is done to values from 0 to 1; the last three are measured.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = Normalize.STANDARD,
    init: Annotated[
        Initializer | None,
        cli.Option(
            "--init",
            help="How weights start. [default: glorot; --arch: the network's own]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    augment: cli.Augment = None,
    optimizer: cli.OptimizerName = Optimizer.ADAM,
    lr: cli.LearningRate = None,
    momentum: cli.Momentum = None,
    schedule: cli.ScheduleName = Schedule.CONSTANT,
    warmup: cli.Warmup = 0.0,
    epochs: cli.Epochs = 30,
    batch: cli.Batch = 32,
    l1: cli.L1 = 0.0,
    l2: cli.L2 = 0.0,
    smoothing: cli.Smoothing = 0.0,
    class_weights: cli.ClassWeightsName = ClassWeights.NONE,
    mixup: cli.Mixup = 0.0,
    loss: cli.LossName = Loss.CATEGORICAL,
    ema: cli.Ema = None,
    clip: cli.Clip = None,
    patience: cli.Patience = None,
    monitor: cli.MonitorName = Monitor.VAL_LOSS,
    amp: cli.AmpName = Amp.AUTO,
    compiled: cli.Compile = False,
    cache: cli.CacheSize = "4G",
    resume: cli.ResumeTraining = False,
    advise: Annotated[
        bool,
        cli.Option(
            "--advise", help="Train nothing; say which case of transfer learning this is, and print its command."
        ),
    ] = False,
    backbone: Annotated[
        str | None,
        cli.Option(
            "--backbone",
            metavar="NAME",
            help="With --advise: a pretrained network to measure with. [default: mobilenet_v2]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        cli.Option(
            "--weights", metavar="FILE|default", help="With --advise: its weights. [default: the library's own]"
        ),
    ] = None,
    device: cli.Device = "auto",
    jobs: cli.Jobs = None,
    seed: cli.Seed = 0,
    errors: cli.Errors = None,
    as_json: cli.Json = False,
) -> None:
    """Train a convolutional network from scratch.

    Learns from the rows of a manifest whose split is train, or the folder train/, and checks every epoch on those of val; the weights
    of the best epoch are kept. Writes FILE.pt and its history FILE.csv. Under torchrun, several processes train together.

    Examples:
      cnn-train split.tsv -o model.pt --epochs 30 \\
          --layers "3 * (conv 32 k3 relu, pool 2), flatten, dense 64 relu, dropout 0.5"
      cnn-train photos/ -o model.pt --arch resnet18 --schedule cosine --epochs 90 \\
          --augment "rotate 20, zoom 0.2, hflip"
      cnn-train photos/train --val photos/val -o model.pt --layers @net.txt --resume
      cnn-train folds.tsv --hold-out fold0 -o fold0.pt --arch resnet18
      cnn-train photos/ --advise --weights mobilenet_v2.pth
      torchrun --standalone --nproc-per-node 2 --no-python \\
          cnn-train photos/ -o model.pt --arch resnet50
    """
    from cnnkit.train import config, scratch
    from cnnkit.train.config import ImageTrainConfig, RunConfig

    if advise:
        if output is not None:
            raise UsageError("--advise writes nothing; drop -o")
        if layers or arch or augment is not None or resume:
            raise UsageError("--advise trains nothing; drop --layers, --arch, --augment and --resume")
        if hold_out is not None:
            raise UsageError("--advise speaks of a training with --val; drop --hold-out")
        from cnnkit.audit import transfer_advice

        material = cli.material(sources, val=val)
        with cli.skipping(errors) as skip, cli.progress("looking") as progress:
            found = transfer_advice.advise(
                material,
                sources=transfer_advice.Sources(sources or ["-"], val or []),
                backbone=backbone or "mobilenet_v2",
                weights=weights or "default",
                device=device,
                jobs=jobs,
                seed=seed,
                skip=skip,
                progress=progress,
            )
        cli.emit([found], as_json)
        return
    if backbone or weights:
        raise UsageError(
            "this trains from random weights: --backbone and --weights go with --advise, or with cnn-finetune, which starts from them"
        )
    recipe = ImageTrainConfig(
        loss=loss,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        schedule=schedule,
        warmup=warmup,
        epochs=epochs,
        batch=batch,
        l1=l1,
        l2=l2,
        smoothing=smoothing,
        class_weights=class_weights,
        mixup=mixup,
        augment=augment,
        ema=ema,
        clip=clip,
        patience=patience,
        monitor=monitor,
        amp=amp,
        compile=compiled,
        seed=seed,
    )
    material = cli.material(sources, val=val, hold_out=hold_out)
    with cli.skipping_once(errors) as skip, cli.progress("training") as progress:
        result = scratch.train(
            material,
            cli.model_file(output),
            design=config.NetworkConfig(
                layers=layers, arch=arch, head=head, size=size, fit=fit, grey=grey, normalize=normalize, init=init
            ),
            recipe=recipe,
            running=RunConfig(cli.in_bytes(cache), jobs, device, resume),
            skip=skip,
            report=cli.reporting(as_json),
            progress=progress,
        )
    cli.conclude(result, as_json)


if __name__ == "__main__":
    main()
