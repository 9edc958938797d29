"""cnn-embed: a map of the features of images in two dimensions.

photos.npy  photos.tsv  ->  map.png     a point for each image, coloured by class; with --thumbnails the images
                            map.tsv     path, label, x, y
"""

from typing import Annotated

from cnnkit import cli
from cnnkit.audit.config import EmbedConfig


@cli.image_command
def main(
    features: Annotated[
        list[str],
        cli.Argument(
            metavar="FILE.npy",
            show_default=False,
            help="Features from cnn-extract; those of several files are drawn on one map.",
        ),
    ],
    *,
    config: EmbedConfig,
    split: cli.options.Split = None,
    errors: cli.options.Errors = None,
    as_json: cli.options.Json = False,
) -> None:
    """Map the features of images to two dimensions, by t-SNE or PCA, and draw the map.

    Images with similar features are near each other: classes that overlap are hard to separate, an image among those of another class
    may have a wrong label, and a class in several groups may have several kinds of images. On a map by t-SNE only neighbourhoods have a
    meaning, not distances between groups or their sizes.

    Prints a row for each image, with its coordinates. With -o, writes files, and prints a row about the map: trustworthiness is 1 if all
    neighbours on the map are neighbours in feature space, and about 0.5 for random points.

    Of images with augmented copies (cnn-extract --views), only the image itself is used; maps of a layer are averaged over their
    places. t-SNE starts from the first 50 principal components.

    Examples:
      cnn-embed features.npy -o map.png
      cnn-embed features.npy -o map.png -o map.tsv --thumbnails
      cnn-embed train.npy --method pca | cut -f 2-4
      cnn-embed features.npy --perplexity 10 --split val -o val.svg
    """
    config = config.checked()

    from cnnkit.audit import embedding

    embedding.check_outputs(config.output or (), features)
    found = embedding.find(features, split=split, images=config.thumbnails)
    with cli.callbacks("mapping", errors=errors) as callbacks:
        drawn = embedding.embed(
            found, method=config.method, perplexity=config.perplexity, seed=config.seed, phase=callbacks.phase
        )
        if config.drawings:
            callbacks.phase("drawing")

            from cnnkit.audit import embedding_plot  # matplotlib

            shown = []
            if config.thumbnails:
                shown = embedding_plot.thumbnails_of(drawn, seed=config.seed, jobs=config.jobs, skip=callbacks.skip)
            for path in config.drawings:
                embedding_plot.save(path, drawn, name=embedding.name_of(found), thumbnails=shown)
        for path in config.tables:
            embedding.save_points(path, drawn.points)
    if config.output is None:
        cli.emit(drawn.points, as_json, columns=embedding.COLUMNS)
    else:
        cli.emit([drawn.record], as_json)


if __name__ == "__main__":
    main()
