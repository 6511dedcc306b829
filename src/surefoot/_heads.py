"""How many heads of a network a loss adds up, read from its graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

_JOINS = frozenset(("Add", "Sub", "Mul", "Div", "Neg", "ToCopy", "Squeeze", "Unsqueeze", "View"))
_SUMS = frozenset(("Sum", "Mean"))
_LISTS = frozenset(("Stack", "Cat"))
_LAYERS = ("mm", "conv", "linear", "rnn", "lstm", "gru", "attention", "embedding", "compiled")


def count_heads(loss: Any) -> int:
    """Count the losses of different heads whose sum, weighted or not, ``loss`` is.

    A head is a term that depends on the weights through layers (a penalty on weights does not) and
    on some that no other one depends on (the losses of micro-batches, of time steps, or two losses
    of one output share all of theirs; derivatives of an output lack its bias at most). 1 where
    there is nothing to see, such as behind a compiled loss.

    Args:
        loss: what a closure returned, of any type; its graph is read and not changed.
    """
    graph = getattr(loss, "grad_fn", None)
    # what is added up to the loss, down to where it is no single number any more
    terms = [] if graph is None else [node for node in _below(graph, _joins) if not _joins(node)]
    found = {weights for term in terms if (weights := _weights(term))}
    return max(1, sum(not any(one < other for other in found) for one in found))


def _below(node: Any, goes_on: Callable[[Any], bool] = lambda node: True) -> Iterator[Any]:
    """A node and, where it goes on from there, what it was made of, each once."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        yield node
        fresh = set(_parts(node) if goes_on(node) else ()) - seen
        seen |= fresh
        waiting += fresh


def _joins(node: Any) -> bool:
    """Whether a node puts single numbers together."""
    kind, parts = _kind(node), _parts(node)
    if kind in _LISTS:
        return all(_size(part) == 1 for part in parts)
    if kind in _SUMS:  # of a list of losses, not of examples
        return all(_kind(part) in _LISTS and _joins(part) for part in parts)
    return kind in _JOINS and _size(node) == 1


def _kind(node: Any) -> str:
    """`Add` of an `AddBackward0`."""
    return str(node.name()).partition("Backward")[0]


def _parts(node: Any) -> list[Any]:
    """What a node was made of, constants left out."""
    return [part for part, _ in node.next_functions if part is not None]


def _size(node: Any) -> int | None:
    """How many numbers a node yields; None where torch does not say."""
    shapes = [getattr(meta, "shape", None) for meta in getattr(node, "_input_metadata", [])]
    if len(shapes) != 1 or shapes[0] is None:
        return None
    return math.prod(int(size) for size in shapes[0])


def _weights(term: Any) -> frozenset[int]:
    """The leaves that a term depends on; none if no layer lies in between."""
    nodes = [*_below(term)]
    if not any(layer in node.name().lower() for node in nodes for layer in _LAYERS):
        return frozenset()
    return frozenset(id(node.variable) for node in nodes if hasattr(node, "variable"))
