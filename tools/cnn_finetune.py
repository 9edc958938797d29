"""Train the top of a pretrained base further, together with its head.

head.pt                  ->  tuned.pt               the whole network, with the weights of its best epoch
photos/train/cat/1.jpg       tuned.csv              its history, one row an epoch
photos/val/cat/2.jpg         tuned.checkpoint.pt    while it goes on: what --resume goes on from
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.choices import Amp, ClassWeights, Fit, Initializer, Loss, Monitor, Optimizer, Schedule


@cli.command
def main(
    words: Annotated[
        list[str] | None,
        cli.Argument(
            metavar="[MODEL.pt] SOURCE...",
            show_default=False,
            help="A model by cnn-train-head, cnn-train or this command, unless --backbone says where to start; and the pictures.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        cli.Option(
            "--output",
            "-o",
            metavar="FILE.pt",
            help="Where the tuned model goes; an earlier one there stays until then.",
        ),
    ] = None,
    val: cli.Val = None,
    hold_out: cli.HoldOut = None,
    unfreeze: Annotated[
        str,
        cli.Option(
            "--unfreeze",
            metavar="NAME|N|all|none",
            help="Train from this layer on (features.14, block5; cnn-dims lists them), the last N layers, all, or the head alone.",
            rich_help_panel=cli.FREEZING,
        ),
    ] = "none",
    backbone: Annotated[
        str | None,
        cli.Option(
            "--backbone",
            metavar="NAME",
            help="In place of a model: a pretrained network with a fresh head.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    weights: Annotated[
        str,
        cli.Option(
            "--weights",
            metavar="FILE|default|none",
            help="With --backbone: a state_dict; the library's own; or none.",
            rich_help_panel=cli.NETWORK,
        ),
    ] = "default",
    head: Annotated[
        str,
        cli.Option(
            "--head",
            metavar="NOTATION",
            help="With --backbone: layers before the last dense one. [default: none]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = "",
    size: Annotated[
        int | None,
        cli.Option(
            "--size",
            min=1,
            help="With --backbone: side of the input in pixels. [default: its own]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        cli.Option(
            "--fit",
            help="With --backbone: how a picture becomes a square. [default: crop]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    init: Annotated[
        Initializer | None,
        cli.Option(
            "--init",
            help="With --backbone: how the head's weights start. [default: glorot]",
            rich_help_panel=cli.NETWORK,
        ),
    ] = None,
    warmup_head: Annotated[
        int,
        cli.Option(
            "--warmup-head",
            min=0,
            metavar="EPOCHS",
            help="Train the head alone first, so many epochs more, at its usual rate. A fresh head needs it before a base.",
            rich_help_panel=cli.FREEZING,
        ),
    ] = 0,
    layer_decay: Annotated[
        float | None,
        cli.Option(
            "--layer-decay",
            min=0.0,
            max=1.0,
            help="Each block learns at this share of the rate of the one above it.",
            rich_help_panel=cli.FREEZING,
        ),
    ] = None,
    views: Annotated[
        int | None,
        cli.Option(
            "--views",
            min=0,
            metavar="K",
            show_default=False,
            help="Augmented versions of the frozen part's answers to keep; 0 runs it anew in every epoch. "
            "[default: 0 with --augment, else 1, the plain one]",
            rich_help_panel=cli.FREEZING,
        ),
    ] = None,
    freeze_bn: Annotated[
        bool,
        cli.Option(
            "--freeze-bn/--train-bn",
            help="What the trained layers' batch norm statistics do: stay as they are, or follow the batches.",
            rich_help_panel=cli.FREEZING,
        ),
    ] = True,
    augment: cli.Augment = None,
    optimizer: cli.OptimizerName = Optimizer.ADAM,
    lr: Annotated[
        float | None,
        cli.Option(
            "--lr",
            min=0.0,
            show_default=False,
            help="Learning rate. [default: 0.00001; head alone: 0.001, 0.01 for sgd]",
            rich_help_panel=cli.LEARNING,
        ),
    ] = None,
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
    loss: Annotated[
        Loss | None,
        cli.Option(
            "--loss",
            help="For a fresh head. [default: categorical, or what the model is made for]",
            rich_help_panel=cli.LEARNING,
        ),
    ] = None,
    ema: cli.Ema = None,
    clip: cli.Clip = None,
    patience: cli.Patience = None,
    monitor: cli.MonitorName = Monitor.VAL_LOSS,
    amp: cli.AmpName = Amp.AUTO,
    compiled: cli.Compile = False,
    cache: cli.CacheSize = "4G",
    resume: cli.ResumeTraining = False,
    device: cli.Device = "auto",
    jobs: cli.Jobs = None,
    seed: cli.Seed = 0,
    errors: cli.Errors = None,
    as_json: cli.Json = False,
) -> None:
    """Train the top of a pretrained base further, together with its head.

    What stays frozen keeps its batch norm statistics, and runs once: its answers are kept, so that an epoch costs the trained part alone.
    With --augment it runs in every epoch, or K times with --views K. Writes FILE.pt and its history FILE.csv.

    Examples:
      cnn-finetune head.pt split.tsv -o tuned.pt --unfreeze features.14 --lr 1e-5
      cnn-finetune head.pt split.tsv -o tuned.pt --unfreeze block5 \\
          --augment "rotate 20, hflip" --views 4
      cnn-finetune head.pt folds.tsv --hold-out fold0 -o fold0.pt --unfreeze features.14
      cnn-finetune --backbone resnet50 photos/ -o model.pt --warmup-head 5 \\
          --unfreeze all --layer-decay 0.8
    """
    from cnnkit.train import config, finetune
    from cnnkit.train.config import ImageTrainConfig, RunConfig

    model, sources = cli.model_first(words, unless=backbone)
    recipe = ImageTrainConfig(
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
        result = finetune.finetune(
            config.InitFrom(model=model, backbone=backbone, weights=weights, head=head, size=size, fit=fit, init=init),
            material,
            cli.model_file(output),
            thawing=config.FreezeConfig(
                unfreeze=unfreeze, layer_decay=layer_decay, warmup_head=warmup_head, views=views, freeze_bn=freeze_bn
            ),
            recipe=recipe,
            loss=loss,
            running=RunConfig(cli.in_bytes(cache), jobs, device, resume),
            skip=skip,
            report=cli.reporting(as_json),
            progress=progress,
        )
    cli.conclude(result, as_json)


if __name__ == "__main__":
    main()
