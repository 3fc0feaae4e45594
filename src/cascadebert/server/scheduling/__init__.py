"""Queues, batches and worker threads."""
