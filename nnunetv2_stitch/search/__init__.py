"""The search of coefficients by a score: of weights (`merging`) or of switches (`guiding`)."""
