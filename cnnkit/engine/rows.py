"""How a batch is divided among the cores of a CPU: a few rows for each, which it takes through all layers. Imports no torch.

Against all cores in every layer, the maps of most layers stay in the cache of a core, and no core waits for another after each layer.
"""

from cnnkit.data.reader import usable_cores

#: Rows that a core computes at once. The maps of so few leave room in its cache.
ROWS_OF_A_CORE = 4


def fill_all_cores(rows: int) -> bool:
    """Return whether there are several cores, and enough rows for all of them; fewer rows are faster with all cores in every layer."""
    return 1 < usable_cores() <= rows // ROWS_OF_A_CORE
