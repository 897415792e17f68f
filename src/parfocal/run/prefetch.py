"""Reading ahead in a thread, so that tiles are cut while the encoder computes."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


@contextmanager
def prefetched(items: Iterable[T], *, depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate `items` in a thread that is at most `depth` items ahead.

    An exception of `items` is raised where its item would have come. When the block is left early, the thread stops
    after the item it is at, and is gone before the block is.
    """
    line: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def produce() -> None:
        end = _End(None)
        try:
            for item in () if stop.is_set() else items:
                line.put(item)
                if stop.is_set():
                    return
        except BaseException as error:  # passed over to the consumer, whatever it is
            end = _End(error)
        line.put(end)

    def consume() -> Iterator[T]:
        while True:
            item = line.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=produce, name="parfocal-prefetch", daemon=True)
    try:
        thread.start()  # in here: it waits for the thread to begin, and a signal may end that wait
        yield consume()
    finally:
        stop.set()
        while thread.is_alive():
            # Make room for a producer that waits to put; it looks at `stop` right after.
            try:
                line.get(timeout=0.01)
            except queue.Empty:
                continue
