"""Parts of `synergy`: labels and moments of a cohort in; a permutation test, its power, its directions and a page out.

moments -> covariates -> permutation -> effect, with type_centring and main_effects beside, directions and page after.
"""
