"""Values of feature maps brought to shares, and folders that are only written when all is well."""

import numpy as np
import pytest

from cnnkit.choices import Fit, MapScale
from cnnkit.errors import UsageError
from cnnkit.explain import config, feature_maps
from cnnkit.formats.header import Preprocess


def test_scaled_by_hand():
    """By its own range each channel reaches from 0 to 1; by the layer's only the layer does; what does not change is 0."""
    values = np.array([[[-1, 0], [1, 3]], [[2, 2], [2, 2]], [[7, 3], [5, 4]]], dtype=np.float32)
    own = feature_maps.scaled(values, MapScale.CHANNEL)
    np.testing.assert_allclose(own[0], [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(own[1], 0)
    np.testing.assert_allclose(own[2], [[1, 0], [0.5, 0.25]])
    np.testing.assert_allclose(feature_maps.scaled(values, MapScale.LAYER), (values + 1) / 8)
    assert own.dtype == np.float32
    np.testing.assert_array_equal(feature_maps.scaled(np.full((2, 3, 3), 5, np.float32), MapScale.LAYER), 0)


class Two:
    """A network of two layers, one with maps and one with a vector."""

    preprocess = Preprocess(fit=Fit.SQUASH, resize=8, size=8, mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self, **answers):
        self.given = answers
        self.layers = [type("Layer", (), {"name": name})() for name in answers]

    def find(self, wanted):
        return next(layer for layer in self.layers if layer.name == wanted)

    def activations(self, image, layers):
        assert image.shape == (8, 8, 3)
        return [self.given[layer.name] for layer in layers]


def test_nothing_is_written_before_all_is_known(pictures, tmp_path):
    """A vector, or a channel that one of the layers lacks, is refused before the first picture of the first layer."""
    picture = pictures(red=1) / "red" / "00.png"
    network = Two(a=np.ones((4, 3, 3), np.float32), b=np.ones((2, 3, 3), np.float32), v=np.ones(5, np.float32))
    options = config.FeatureMapOptions(output=tmp_path / "out", channels="3")
    for layers, message in ((["a", "v"], "v answers with a vector of 5"), (["a", "b"], "--channels 3: b has 2")):
        with pytest.raises(UsageError, match=message):
            feature_maps.explain(network, picture, layers, options=options)
    assert not (tmp_path / "out").exists()


def test_silent_channels_and_names_of_files(pictures, tmp_path):
    """Silent is below a millionth of the layer's strongest, of either sign; a name with a slash is one file; 1000 need four digits."""
    values = np.zeros((1001, 2, 2), np.float32)
    values[0], values[1], values[2], values[3, 0, 0] = -9, 1e-7, 1e-4, 2
    network = Two(**{"block/conv": values})
    options = config.FeatureMapOptions(output=tmp_path / "out", channels="0,1000")
    (record,) = feature_maps.explain(network, pictures(red=1) / "red" / "00.png", ["all"], options=options)
    assert record.silent == pytest.approx(998 / 1001)
    assert record.zeros == pytest.approx(1 - 9 / 4004)
    assert (record.maximum, record.most_active) == (2, 3)
    assert record.mosaic == str(tmp_path / "out" / "block_conv.png")
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert names == ["block_conv", "block_conv.png", "block_conv/0000.png", "block_conv/1000.png"]
