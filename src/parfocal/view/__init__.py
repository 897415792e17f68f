"""The viewer: slides, regions and what a head says of them, in a browser on this machine.

In: a store, and a head where there is one. Out: a page; nothing is written.
"""

from parfocal.view.serve import open_viewer, view_store
from parfocal.view.viewer import Viewer

__all__ = ["Viewer", "open_viewer", "view_store"]
