"""Fine-tune a network: train its head and the top layers of its pretrained backbone.

head.pt                  ->  tuned.pt               the whole network, with the weights of its best epoch
photos/train/cat/1.jpg       tuned.csv              its history, one row per epoch
photos/val/cat/2.jpg         tuned.checkpoint.pt    during training: the checkpoint for --resume
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.train import config
from cnnkit.train.config import FinetuneConfig, FreezeConfig, RunConfig
from cnnkit.train.find_lr_config import FindLrConfig
from cnnkit.train.network_config import InitFrom, refuse_overwriting


@cli.image_command
def main(
    words: Annotated[
        list[str] | None,
        cli.Argument(
            metavar="[MODEL.pt] [SOURCE]...",
            show_default=False,
            help="A model by cnn-train-head, cnn-train or cnn-finetune (not with --backbone), then folders or manifests of images.",
        ),
    ] = None,
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
    init: InitFrom,
    freeze: FreezeConfig,
    train: FinetuneConfig,
    run: RunConfig,
    find: FindLrConfig,
    errors: cli.options.Errors = None,
    folders: cli.options.Folders = None,
    as_json: cli.options.Json = False,
) -> None:
    """Fine-tune a network: train its head and the top layers of its pretrained backbone.

    Reads a folder photos/train/CLASS/image.jpg with photos/val/ next to train/, or a manifest with the splits train and val.
    The weights of the epoch that is best on val are kept. Writes the model to FILE.pt and its history to FILE.csv.

    The frozen part runs once and its features are cached, so that an epoch only computes the trained part. With --augment or --mixup
    the frozen part runs in each epoch; with --augment and --views K, K times in all. examples/flowers/ trains a head first, then
    the top of the backbone.

    Examples:
      cnn-finetune head.pt split.tsv -o tuned.pt --unfreeze features.14 --lr 1e-5
      cnn-finetune head.pt split.tsv -o tuned.pt --unfreeze features.14 \\
          --augment "rotate 20, hflip" --views 4
      cnn-finetune head.pt folds.tsv --hold-out fold0 -o fold0.pt --unfreeze features.14
      cnn-finetune head.pt split.tsv --unfreeze features.14 --find-lr lr.png
      cnn-finetune --backbone resnet50 photos/ -o model.pt --warmup-head 5 \\
          --unfreeze all --layer-decay 0.8
    """
    model, sources = cli.model_first(words, unless=init.backbone)
    init = dataclasses.replace(init, model=model)
    init.check_files()
    data = cli.labelled_images(sources, val=val, hold_out=hold_out, folders=folders)
    classes, has_val = len(data.classes), bool(data.val)
    output = config.model_path(output) if find.find_lr is None else find.checked(train, run, output=output)
    data = find.needed(data, validates=freeze.warmup_head > 0)
    freeze = freeze.checked()
    init = init.checked(train.loss, classes=classes, multi_label=data.multi_label)
    train = train.checked_for(freeze, classes=classes, has_val=has_val, multi_label=data.multi_label)
    refuse_overwriting(output, init)
    freeze = freeze.with_views(train)
    run = run.checked()

    cli.keep_freed_memory()
    if find.find_lr is not None:
        from cnnkit.train import find_lr, find_lr_plot
        from cnnkit.train.finetune import preparing

        train = dataclasses.replace(train, epochs=0)  # those after a warm-up, for its notices
        with (
            cli.callbacks("loading the model", errors=errors) as callbacks,
            preparing(data, output, init=init, freeze=freeze, train=train, run=run, callbacks=callbacks) as trainer,
        ):
            steps = find_lr_plot.conclude(trainer.find_lr(), output, writes=cli.is_first())
        if cli.is_first():
            cli.emit(steps, as_json, columns=find_lr.COLUMNS)
        return
    from cnnkit.train.finetune import finetune

    with cli.callbacks("loading the model", errors=errors, epochs_as_json=as_json) as callbacks:
        result = finetune(data, output, init=init, freeze=freeze, train=train, run=run, callbacks=callbacks)
    cli.conclude(result, as_json)


if __name__ == "__main__":
    main()
