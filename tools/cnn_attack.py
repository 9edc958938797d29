"""cnn-attack: adversarial images, which a network classifies wrongly although they hardly differ from the originals.

photos/cat/1.jpg    ->  DIR/cat/1.jpg.png       the adversarial image, of the size to which the network resizes images
photos/cat/2.png        DIR/cat/2.png
                        DIR/attack.tsv          manifest: path label split group source
"""

from pathlib import Path
from typing import Annotated

from cnnkit import cli
from cnnkit.explain.config import AttackOptions, NetworkOptions


@cli.image_command
def main(
    model: Annotated[
        str,
        cli.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A trained .pt, or the name of a torchvision or timm network.",
        ),
    ],
    sources: cli.options.Sources = None,
    *,
    output: Annotated[Path, cli.Option("--output", "-o", metavar="DIR", help="Folder to write adversarial images to.")],
    attack: AttackOptions,
    network: NetworkOptions,
    split: cli.options.Split = None,
    folders: cli.options.Folders = None,
    null: cli.options.Null = False,
    device: cli.options.Device = "auto",
    batch: cli.options.Batch = 32,
    jobs: cli.options.Jobs = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Change images by at most epsilon per pixel so that a network classifies them wrongly (adversarial images).

    The change follows the sign of the gradient of the loss of the image's label; without a label, of the predicted class. With --target,
    the network is to predict that class instead. Prints a row for each image: the predicted class and its probability before and
    after, the largest change of a value (0 to 255), and the adversarial image.

    Writes PNG, in class folders, of the size to which the network resizes images, so that nothing is lost: cnn-predict gives the
    class that is printed. DIR/attack.tsv lists the images with their labels; their accuracy is the robust accuracy.

    Examples:
      cnn-attack -m model.pt photos/ --epsilon 2 -o adversarial/
      cnn-predict -m model.onnx adversarial/attack.tsv | cnn-eval --truth adversarial/attack.tsv
      cnn-attack -m model.pt split.tsv --split test --epsilon 4 --steps 20 -o adversarial/
      cnn-attack -m model.pt photos/cat --target dog --steps 40 -o adversarial/
    """
    attack = attack.checked()

    from cnnkit.data import tree
    from cnnkit.explain import attack_run

    tree.check_free(output, force=attack.force)
    images = cli.images(sources, split=split, null=null, folders=folders)
    cli.finish_files()
    opened = attack_run.open_model(model, attack, network, device=device)
    with (
        tree.writing_into(output, force=attack.force),
        cli.callbacks("attacking", errors=errors, streaming=True) as callbacks,
    ):
        cli.emit(attack_run.write(images, opened, output, batch=batch, jobs=jobs, callbacks=callbacks), as_json)


if __name__ == "__main__":
    main()
