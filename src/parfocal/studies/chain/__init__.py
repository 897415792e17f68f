"""The whole chain from one file: what the file says, what it would cost, how its stages run, and what the page says."""
