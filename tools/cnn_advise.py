"""Measure which case of transfer learning a dataset is, and print the training command for it.

photos/train/cat/1.jpg   ->   one row: size, similarity, accuracy by layer, and a command
"""

from typing import Annotated

from cnnkit import cli
from cnnkit.audit.config import AdviseConfig


@cli.image_command
def main(
    sources: cli.options.Labelled = None,
    val: Annotated[
        list[str] | None,
        cli.Option(
            "--val",
            metavar="SOURCE",
            help="Validation set for the printed command. [default: the split val of SOURCE]",
        ),
    ] = None,
    *,
    config: AdviseConfig,
    errors: cli.options.Errors = None,
    folders: cli.options.Folders = None,
    output_file: cli.options.TableFile = None,
    as_json: cli.options.Json = False,
) -> None:
    """Measure which case of transfer learning a dataset is, and print the training command for it.

    Reads a folder photos/CLASS/image.jpg, one with photos/train/, or a manifest. No network is trained: some training images pass through
    a pretrained network, and logistic regressions on the features of its last and earlier layers are compared. If an earlier layer is
    clearly better, the images differ from those the network was trained on.

    The row has the number of images of the smallest class (per_class), the cross-validated accuracy on each layer's features,
    the last layer first, and how much better the best earlier layer is than the last one (gain), with its standard error.
    The four cases are few or many images, similar to those of the pretrained network or not; examples/transfer/ works through them.

    Examples:
      cnn-advise photos/ --weights mobilenet_v2.pth
      cnn-advise split.tsv --backbone resnet18 --json
      cnn-advise split.tsv -o advice.tsv
    """
    as_json = cli.to_file(output_file, as_json, inputs=[*(sources or []), *(val or [])], outputs={"--errors": errors})
    data = cli.labelled_images(sources, val=val, folders=folders)
    config = config.checked()

    from cnnkit.audit import transfer_advice

    named = transfer_advice.SourceNames(sources or ["-"], val or [])
    with cli.callbacks("measuring", errors=errors) as callbacks:
        found = transfer_advice.advise(data, sources=named, config=config, callbacks=callbacks)
    cli.emit([found], as_json)


if __name__ == "__main__":
    main()
