"""The layers of an encoder one at a time, by the encoder's own forward: no family needs code of its own.

A part of the forward runs while the `forward` of each layer is replaced: by one that returns what it is
given, one that hands over other hidden states, or one that ends the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cascadebert.errors import StageError, extra
from cascadebert.training.distillation.student import layer_stack

with extra("train"):
    import torch
    from torch import Tensor, nn
    from torch.func import functional_call
    from transformers import PreTrainedModel

Run = Callable[..., Any]
"""A replaced `forward` of a layer: hidden states and the layer's other arguments to its output."""


class _Ended(Exception):
    """Ends a forward pass early, with the hidden states that it was run for."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class LayeredClassifier(nn.Module):
    """A Hugging Face classifier whose parts can be run by themselves.

    Raises StageError if it is not an encoder with one stack of two layers or more, each run once and in order
    on (rows, length, hidden) states, before a linear layer of the labels.
    """

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        config = classifier.config
        if config.is_encoder_decoder or getattr(config, "is_decoder", False):
            raise StageError(f"exits cannot be put into a {config.model_type} model; expected an encoder")
        if config.num_hidden_layers < 2:
            raise StageError(f"exits need two layers or more; the {config.model_type} model has one")
        self.classifier = classifier
        encoder: Any = classifier.base_model
        stack: Any = encoder.get_submodule(layer_stack(encoder))
        self._layers: Sequence[nn.Module] = list(stack)
        self.token = 0 if config.pad_token_id != 0 else 1  # any that is not padding
        self._further, self.width = self._probe()
        self.head_names, self.out_name = self._find_head()

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(rows, length, hidden) states before the first layer, from the output of `model_inputs`."""

        def end(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise _Ended(hidden)

        return self._run_until_ended([end] * self.depth, inputs)

    def layer(self, number: int, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """(rows, length, hidden) states after a layer, counted from 1, from those before it."""

        def run(given: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise _Ended(self._hidden_of(own(hidden, *args, **kwargs)))

        own = self._layers[number - 1].forward
        skipped = [self._skip] * (number - 1)
        return self._run_until_ended([*skipped, run], inputs)

    def logits(
        self, hidden: Tensor, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """(rows, num_labels) logits from states after the last layer; `parameters` replaces some by name."""

        def give(given: Tensor, *args: Any, **kwargs: Any) -> Any:
            return self._output(hidden)

        with replaced_forwards(self._layers, [*[self._skip] * (self.depth - 1), give]):
            found: Tensor = functional_call(self.classifier, dict(parameters or {}), (), dict(inputs)).logits
        return found

    def logits_of(self, features: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """(rows, num_labels) logits of (rows, hidden) features, taken as texts of one token each."""
        ids = torch.full((len(features), 1), self.token, device=features.device)
        return self.logits(features[:, None], {"input_ids": ids}, parameters)

    def states(self, inputs: Mapping[str, Tensor], *, detached_after: Sequence[int] = ()) -> list[Tensor]:
        """(rows, length, hidden) states after each layer, by one pass.

        No gradient flows back through the states after the layers in `detached_after`, counted from 1.
        """
        found = list[Tensor]()

        def runs() -> Iterator[Run]:
            for number, layer in enumerate(self._layers):
                yield _recorded(layer.forward, found, detached=number in detached_after)

        with replaced_forwards(self._layers, list(runs())):
            self.classifier.base_model(**inputs)
        return [self._hidden_of(output) for output in found]

    def _run_until_ended(self, runs: Sequence[Run], inputs: Mapping[str, Tensor]) -> Tensor:
        try:
            with replaced_forwards(self._layers, runs):
                self.classifier.base_model(**inputs)
        except _Ended as ended:
            return ended.hidden
        raise AssertionError("the pass did not reach the layer")

    def _hidden_of(self, output: Any) -> Tensor:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def _output(self, hidden: Tensor) -> Any:
        return hidden if self._further is None else (hidden, *[None] * self._further)

    def _skip(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._output(hidden)

    def _probe(self) -> tuple[int | None, int]:
        """The number of further outputs of a layer, None if it gives no tuple, and the width."""
        calls, outputs = [], list[Any]()
        for i, layer in enumerate(self._layers):
            hook = layer.register_forward_hook
            calls.append(hook(lambda module, given, output, i=i: outputs.append((i, output))))
        ids = torch.full((2, 5), self.token, device=self.classifier.device)
        try:
            with torch.no_grad():
                self.classifier(input_ids=ids)
        finally:
            for call in calls:
                call.remove()
        shapes = {tuple(self._hidden_of(output).shape) for _, output in outputs}
        if [i for i, _ in outputs] != list(range(self.depth)) or len(shapes) > 1:
            raise self._unfit("its layers are not run once each on states of one shape")
        (shape,) = shapes
        if shape[:2] != (2, 5):
            raise self._unfit(f"its layers have states of shape {shape} for 2 texts of 5 tokens")
        output = outputs[0][1]
        return len(output) - 1 if isinstance(output, tuple) else None, shape[2]

    def _find_head(self) -> tuple[tuple[str, ...], str]:
        """The names of all parameters behind the layers, and of the last linear layer among them."""
        parameters = dict(self.classifier.named_parameters())
        with torch.enable_grad():
            logits = self.logits_of(torch.zeros(2, self.width, device=self.classifier.device))
            gradients = torch.autograd.grad(logits.sum(), list(parameters.values()), allow_unused=True)
        names = tuple(name for name, found in zip(parameters, gradients, strict=True) if found is not None)
        linear = [
            name
            for name, part in self.classifier.named_modules()
            if isinstance(part, nn.Linear) and f"{name}.weight" in names
        ]
        if not linear or self.classifier.get_submodule(linear[-1]).out_features != logits.shape[1]:
            raise self._unfit("its head does not end in a linear layer of the labels")
        return names, linear[-1]

    def _unfit(self, why: str) -> StageError:
        return StageError(f"exits cannot be put into a {self.classifier.config.model_type} model: {why}")


@contextmanager
def replaced_forwards(layers: Sequence[nn.Module], runs: Sequence[Run]) -> Iterator[None]:
    """Replace the `forward` of the first layers, in their order, by one that takes hidden states first."""

    def adapted(run: Run) -> Run:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return run(*args, **kwargs) if args else run(kwargs.pop("hidden_states"), **kwargs)

        return forward

    try:
        for layer, run in zip(layers, runs, strict=False):
            layer.forward = adapted(run)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _recorded(own: Run, found: list[Any], *, detached: bool) -> Run:
    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(own(hidden.detach() if detached else hidden, *args, **kwargs))
        return found[-1]

    return run
