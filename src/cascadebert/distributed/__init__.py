"""The same cascades on a cluster: scoring on Ray Data, the HTTP API on Ray Serve."""
