"""JSON files of a model's folder in which one value is not what it must be."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

#: Keys and numbers that lead to a value in a document.
Place = tuple[str | int, ...]

#: What stands in the place of a value: name -> JSON text, which may be no JSON by the standard.
ODD: Mapping[str, str] = {
    "null": "null",
    "true": "true",
    "false": "false",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "negative": "-1",
    "minus_zero": "-0.0",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "31_bits": "2147483648",
    "63_bits": "9223372036854775808",
    "beyond_floats": "1" + "0" * 400,
    "ten_thousand_digits": "9" * 10_000,
    "half": "0.5",
    "float_that_is_whole": "32.0",
    "tiny": "1e-300",
    "overflow": "1e999",
    "nan": "NaN",
    "infinity": "Infinity",
    "minus_infinity": "-Infinity",
    "empty_text": '""',
    "text": '"x"',
    "number_as_text": '"32"',
    "up": '"../../x"',
    "long_text": '"' + "a" * 200_000 + '"',
    "surrogate": '"\\ud800"',
    "null_character": '"\\u0000"',
    "line_ends": '"a\\nb\\r\\u2028c"',
    "empty_list": "[]",
    "list": "[1]",
    "list_of_null": "[null]",
    "nested_list": "[[[[]]]]",
    "deep_list": "[" * 900 + "]" * 900,
    "deepest_list": "[" * 100_000 + "]" * 100_000,
    "long_list": "[" + "0," * 50_000 + "0]",
    "empty_object": "{}",
    "object": '{"a": 1}',
    "object_of_null": '{"": null}',
    "deep_object": '{"a":' * 900 + "0" + "}" * 900,
    "numbered_object": '{"0": "a", "7": null}',
}
_MARK = "\x01mark\x01"
#: Of the entries of a long list or object (a vocabulary, merges) so many are changed.
_FEW = 3


def places(document: Any, before: Place = ()) -> Iterator[Place]:
    """The paths of all values in a document, at any depth; the first and the last of long lists and objects."""
    if before:
        yield before
    if isinstance(document, dict | list):
        keys: Sequence[Any] = list(document) if isinstance(document, dict) else range(len(document))
        if len(keys) > 60 or (isinstance(document, list) and len(keys) > _FEW):
            keys = [*keys[: _FEW - 1], keys[-1]]
        for key in keys:
            yield from places(document[key], (*before, key))


def cases(document: Any, absent: Collection[str] = ()) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """JSON files in which one value of the document is an odd one, or gone, or there twice; then odd ones alone.

    Each has a name, and is made when it is asked for.

    Args:
        absent: keys of the document that the file has only where they are the ones that are changed.
    """
    for path in places(document):
        there = {k: v for k, v in document.items() if k not in absent or k == path[0]}
        where = "/".join(map(str, path))
        for name, text in ODD.items():
            yield f"{where} {name}", partial(with_text, there, path, text)
        yield f"{where} gone", partial(without, there, path)
        if isinstance(path[-1], str):
            yield f"{where} twice", partial(twice, there, path)
    for name, text in ODD.items():
        yield f"all {name}", text.encode


def with_text(document: Any, path: Place, text: str) -> bytes:
    """The document's JSON with `text` in place of the value at `path`."""
    changed = _changed(document, path, lambda parent, key: parent.__setitem__(key, _MARK))
    return changed.replace(json.dumps(_MARK).encode(), text.encode())


def twice(document: Any, path: Place) -> bytes:
    """The document's JSON with the key at the end of `path` twice."""
    return with_text(document, path, f"{json.dumps(_at(document, path))}, {json.dumps(path[-1])}: null")


def without(document: Any, path: Place) -> bytes:
    """The document's JSON without the value at `path`."""
    return _changed(document, path, lambda parent, key: parent.__delitem__(key))


def _at(document: Any, path: Place) -> Any:
    for key in path:
        document = document[key]
    return document


def _changed(document: Any, path: Place, change: Callable[[Any, Any], None]) -> bytes:
    copied = json.loads(json.dumps(document))
    change(_at(copied, path[:-1]), path[-1])
    return json.dumps(copied).encode()
