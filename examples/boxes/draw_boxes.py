#!/usr/bin/env python3
"""Draw the first predictions on a sheet, predicted boxes in orange and true ones in green: draw_boxes.py PREDICTIONS TRUTH SHEET.png."""

import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ACROSS, DOWN, TILE, GAP = 8, 4, 120, 4


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    predictions, truth, sheet = sys.argv[1:]
    folder = Path(truth).parent  # whose paths are relative to the manifest
    true = {row["path"]: row["box"] for row in rows(truth)}
    drawn = Image.new("RGB", (ACROSS * (TILE + GAP), DOWN * (TILE + 14 + GAP)), "white")
    first = [row for row in rows(predictions) if row["rank"] == "1"][: ACROSS * DOWN]
    for place, row in enumerate(first):
        image = Image.open(row["path"]).convert("RGB")
        scale = TILE / max(image.size)
        tile = image.resize([round(scale * side) for side in image.size], Image.Resampling.NEAREST)
        pen = ImageDraw.Draw(tile)
        own = str(Path(row["path"]).relative_to(folder))
        for box, colour in ((true.get(own), "limegreen"), (row["box"], "orange")):
            if box:
                x, y, width, height = (scale * float(number) for number in box.split(","))
                pen.rectangle([x, y, x + width - 1, y + height - 1], outline=colour, width=2)
        left, top = place % ACROSS * (TILE + GAP), place // ACROSS * (TILE + 14 + GAP)
        drawn.paste(tile, (left, top))
        ImageDraw.Draw(drawn).text(
            (left + 2, top + TILE), f"{row['label']}  {float(row['probability']):.2f}", fill="black"
        )
    drawn.save(sheet)


if __name__ == "__main__":
    main()
