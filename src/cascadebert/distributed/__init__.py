"""The same cascades on a cluster: scoring on Ray Data."""
