"""HTTP: paths, schemas, handlers and errors."""
