"""Griffe extension: FitConfig and DistillConfig complete their docstrings when they are imported."""

import inspect

import griffe


class CompletedDocstrings(griffe.Extension):
    """Replaces the docstrings that a static reading of the source cannot see."""

    def on_class_instance(self, *, cls: griffe.Class, **options: object) -> None:
        """Read the docstring of a configuration from the imported class."""
        if cls.path.startswith("cascadebert.training.config."):
            text = inspect.getdoc(griffe.dynamic_import(cls.path)) or ""
            cls.docstring = griffe.Docstring(text, parent=cls)
