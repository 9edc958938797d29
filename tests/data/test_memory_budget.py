"""Memory that threads share."""

import time
from concurrent.futures import ThreadPoolExecutor

from cnnkit.data.memory import MemoryBudget


def test_large_images_wait_for_memory():
    """What is over the budget is let in alone, and its end lets the next one in."""
    room, order = MemoryBudget(10), []

    def work(size):
        with room.taken(size):
            order.append(size)
            time.sleep(0.02)
            order.append(-size)

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(work, [50, 60, 70]))
    assert [abs(each) for each in order[::2]] == [abs(each) for each in order[1::2]]  # one after the other
    with room.taken(5), room.taken(5):
        pass
