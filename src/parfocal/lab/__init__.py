"""The laboratory: cohorts with known answers, and the questions that a method has to answer. Only `cli` imports it."""
