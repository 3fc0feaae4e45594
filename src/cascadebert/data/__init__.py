"""Files, tables, columns, labels, splits and corpora."""
