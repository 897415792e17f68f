"""Step 10 of the path: predictions in, metrics, comparisons, tables and one self-contained page out."""
