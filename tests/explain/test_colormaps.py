"""Colour maps as tables, compared with matplotlib's."""

import matplotlib as mpl
import numpy as np
import pytest

from cnnkit.cli import candidates
from cnnkit.explain import colormaps
from cnnkit.explain.colormap_tables import TABLES


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_matplotlib(name):
    """Rounded to 8 bits."""
    colours = mpl.colormaps[name](np.arange(256) / 255)[:, :3] * 255
    np.testing.assert_array_equal(colormaps.color_table(name), colours.round())


def test_tables_are_the_colour_maps_that_shells_complete():
    """So that what is completed needs no matplotlib."""
    assert set(candidates._COLOURS.split()) == set(TABLES)


def test_other_maps_are_those_of_matplotlib():
    """Which is imported for them."""
    colours = mpl.colormaps["viridis_r"](np.arange(256) / 255)[:, :3] * 255
    np.testing.assert_array_equal(colormaps.color_table("viridis_r"), colours.round())
