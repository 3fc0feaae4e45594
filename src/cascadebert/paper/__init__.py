"""The paper's experiment: cascades of complete models against early exit, from data to tables."""
