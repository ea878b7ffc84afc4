"""Reading YAML: its values, and where each key is."""

from pathlib import Path
from typing import Any

import yaml

from inheritune.errors import InputError
from inheritune.limits import YAML_BYTES, check_yaml, read_text

Lines = dict[tuple[str, ...], str]
"""The place of each key, as file and line, by its path from the root; entries of lists are counted from 0."""

_MERGE = "tag:yaml.org,2002:merge"
_NESTED = "nested too deeply"
_BITS = 4096  # of a whole number; Python writes larger ones out only when it is told to
_NO_VALUE = (ValueError, TypeError, LookupError, AttributeError)
"""What PyYAML raises, besides its own errors, where a value cannot be what its explicit tag says."""


class _Loader(yaml.SafeLoader):
    """YAML whose keys are the texts that were written and whose dates are texts: no setting is a date."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except _NO_VALUE as error:
            why = f"no value of its tag ({type(error).__name__}: {error})"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise yaml.constructor.ConstructorError(None, None, "a number of so many digits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return {_written(key): self.construct_object(value, deep=deep) for key, value in node.value}


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _written(key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key.start_mark)
    return str(key.value)


def _built(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except _NO_VALUE as error:
        raise yaml.YAMLError(f"a value that its tag does not fit ({error})") from None
    finally:
        loader.dispose()


def read_value(text: str) -> Any:
    """The value of an override; what is no YAML is the text itself. Raises InputError for an alias of what it is in."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _collect(root, (), {}, Path("command line"), ())
        return _built(text)
    except (yaml.YAMLError, RecursionError):
        return text


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """What a recipe or a suite says, unchecked, and the place of each of its keys.

    Raises InputError for a file that cannot be read, is not YAML, is no mapping, or has a key twice.
    """
    text = _read(path)
    lines: Lines = {}
    try:
        check_yaml(text, str(path))
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _collect(root, (), lines, path, ())
        tree = _built(text)
    except RecursionError:
        raise InputError(str(path), _NESTED, "write it with fewer lists and mappings inside each other") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(where, f"not YAML: {getattr(error, 'problem', None) or error}", "mend the line") from None
    if not isinstance(tree, dict):
        raise InputError(
            str(path), "a recipe is a mapping of keys such as reference, data, train", "see `inheritune new`"
        )
    return tree, lines


def _read(path: Path) -> str:
    try:
        return read_text(path, YAML_BYTES)
    except FileNotFoundError:
        raise InputError(
            str(path), "no such recipe", "give the path of a YAML file, or write one with `inheritune new`"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"not UTF-8 text (byte {error.start})", "save the recipe as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(str(path), f"cannot be read ({reason})", "give the path of a readable YAML file") from None


def _collect(
    node: yaml.Node, at: tuple[str, ...], lines: Lines, path: Path, above: tuple[yaml.Node, ...], merge: bool = False
) -> None:
    """Note the line of every key. Raises InputError for a key that is there twice, since YAML would drop the first in
    silence, and for an alias of what it is in; keys of a `<<` (`merge`) hold where the mapping has none itself.
    """
    if any(node is outer for outer in above):
        raise InputError(
            f"{path}:{node.start_mark.line + 1}", "an alias in it refers to the whole of it", "write the value out"
        )
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            inner = (*at, _written(key))
            if inner in lines and merge:
                continue
            if inner in lines:
                raise InputError(f"{path}:{key.start_mark.line + 1}", f"key {key.value!r} is there twice", "keep one")
            lines[inner] = f"{path}:{key.start_mark.line + 1}"
            _collect(value, inner, lines, path, above, merge)
        for key, value in node.value:
            if key.tag == _MERGE:
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _collect(one, at, lines, path, above, merge=True)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            if not merge or (*at, str(index)) not in lines:
                lines[(*at, str(index))] = f"{path}:{value.start_mark.line + 1}"
                _collect(value, (*at, str(index)), lines, path, above, merge)
