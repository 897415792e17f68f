"""An arm in use: fitted on all labelled slides, calibrated, and kept in a folder that predicts slides by itself.

In: sets of embeddings, labels, and the arm that a study has settled on. Out: a `Head`, and a table of predictions for
new slides, each with a probability that means what it says and a flag where the slide is of a kind never seen.
"""

__all__: list[str] = []
