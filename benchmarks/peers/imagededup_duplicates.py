"""Find near duplicates with imagededup: imagededup_duplicates.py CLASS_FOLDER..."""

import sys

from imagededup.methods import PHash

if __name__ == "__main__":
    method = PHash(verbose=False)
    codes = {name: code for folder in sys.argv[1:] for name, code in method.encode_images(image_dir=folder).items()}
    method.find_duplicates(encoding_map=codes, max_distance_threshold=10)
