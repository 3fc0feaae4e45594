"""Answers over HTTP: pooled queues, load-following, a watch on the quality."""
