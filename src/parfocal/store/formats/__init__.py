"""Layouts of other tools, one file each: which files there are, and where their tiles lie."""
