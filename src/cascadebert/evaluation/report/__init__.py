"""Whether a cascade is worth it: evidence in, a verdict and a page out."""
