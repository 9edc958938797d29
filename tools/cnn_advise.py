"""Measure which case of transfer learning a set of images is, and print the command that follows from it.

photos/train/cat/1.jpg   ->   one record on stdout: size, similarity, accuracy by layer, and a command; nothing is written
"""

from cnnkit import cli
from cnnkit.audit.config import AdviseConfig


@cli.image_command
def main(
    sources: cli.options.Labelled = None,
    val: cli.options.Val = None,
    *,
    config: AdviseConfig,
    errors: cli.options.Errors = None,
    folders: cli.options.Folders = None,
    as_json: cli.options.Json = False,
) -> None:
    """Measure which case of transfer learning a set of pictures is, and print the command that follows from it.

    Trains nothing and writes nothing. Runs a pretrained network over some of the pictures for training, and compares what a logistic
    regression makes of its last layer and of earlier ones: where an earlier layer is clearly better, the set is different from what
    the network was trained on.

    The record has the number of pictures of the smallest class (per_class), the cross-validated accuracy on each layer's features, the
    last layer first, and how much better the best earlier layer is than the last one (gain), with its standard error.

    Examples:
      cnn-advise photos/ --weights mobilenet_v2.pth
      cnn-advise split.tsv --backbone resnet18 --json
    """
    data = cli.labelled_images(sources, val=val, folders=folders)
    config = config.checked()

    from cnnkit.audit import transfer_advice

    named = transfer_advice.SourceNames(sources or ["-"], val or [])
    with cli.callbacks("looking", errors=errors) as callbacks:
        found = transfer_advice.advise(data, sources=named, config=config, callbacks=callbacks)
    cli.emit([found], as_json)


if __name__ == "__main__":
    main()
