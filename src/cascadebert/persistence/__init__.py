"""The saved folder: schema, model card and checkpoint configuration."""
