"""Load configurations from YAML files and command lines: base files, overrides, validation, dump, help."""

import contextlib
import copy
import dataclasses
import difflib
import io
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from detection.config.schema import Config, SolverConfig

Schema = typing.TypeVar("Schema")


class _Int(int):
    """A number of a YAML file, with its text: data.train=01 names an image set."""

    text: str


class _Float(float):
    """As :class:`_Int`."""

    text: str


class _Constructor(SafeConstructor):
    """Keeps the text of numbers; a date is its text, since no key is one."""

    def number(self, node: Any) -> Any:
        """Construct an integer or a float."""
        if node.tag.endswith("int"):
            number: _Int | _Float = _Int(self.construct_yaml_int(node))
        else:
            number = _Float(self.construct_yaml_float(node))
        number.text = node.value
        return number


for _tag in ("int", "float"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", _Constructor.number)
_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a detector's configuration with :func:`load`."""
    return load(Config, name, overrides)


def load(schema: type[Schema], name: str | Path, overrides: Sequence[str] = (), folder: str = "") -> Schema:
    """Load a configuration.

    Args:
        schema: its dataclass.
        name: a file, or the bare name of a shipped configuration (see :func:`find_config`).
        overrides: "key=value" with dotted keys; values are YAML.
        folder: subfolder of configs/ with the shipped configurations.

    Raises:
        FileNotFoundError: no configuration of this name; lists the shipped ones.
        ValueError: unknown keys (suggests the closest name), or values of the wrong type or out of range.
    """
    path = find_config(name, folder)
    return from_dict(schema, override(_read(path, folder), overrides), str(path))


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of nested dictionaries with "key=value" overrides applied.

    Raises:
        ValueError: an entry is not key=value, or a value is not valid YAML.
    """
    tree = copy.deepcopy(tree)
    layer: dict[str, Any] = {}
    for entry in overrides:
        key, separator, value = entry.partition("=")
        if not separator:
            raise ValueError(f"expected key=value, got {entry!r}")
        parsed = _parse_yaml(value, f"the value of {key}")
        _set(tree, key.strip(), parsed)
        _set(layer, key.strip(), parsed)
    _drop_alternatives(tree.get("solver"), layer.get("solver"))
    return tree


def config_from_dict(tree: dict[str, Any], where: str = "configuration") -> Config:
    """Return a detector's configuration from nested dictionaries, validated as files are."""
    return from_dict(Config, tree, where)


def from_dict(schema: type[Schema], tree: dict[str, Any], where: str) -> Schema:
    """Return a configuration of any schema from nested dictionaries, validated as files are."""
    unknown = list(_unknown_keys(tree, schema, schema))
    if unknown:
        raise ValueError(f"{where}: " + "; ".join(unknown))
    try:
        return TypeAdapter(schema).validate_python(_typed(tree, schema))
    except ValidationError as error:
        raise ValueError(f"{where}: " + "; ".join(_format_error(e) for e in error.errors())) from None


def _format_error(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function-")))
    text = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] == "tuple_type":
        text = "should be a list, such as [1, 2]"
    if isinstance(error["input"], dict) and error["type"] == "value_error" and "=" in text:
        return text  # of a whole group: it says which keys
    return f"{key} {text}, got {error['input']!r}" if key else text


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries and lists of plain values, for YAML and checkpoints."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def dump_config(config: Any) -> str:
    """Return the full configuration as YAML; loading it gives an equal configuration."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel types it as None
    out = io.StringIO()
    yaml.dump(config_to_dict(config), out)
    return out.getvalue()


def config_help(schema: type = Config) -> str:
    """Return one or two lines per key, with defaults and descriptions from the docstrings."""
    lines = []
    for key, annotation, default, doc in _walk(schema):
        kind = (
            str(annotation).replace("typing.", "")
            if typing.get_origin(annotation)
            else getattr(annotation, "__name__", str(annotation))
        )
        kind = kind.split("[")[0] if kind.startswith("Annotated") else kind
        lines.append(f"  {key} = {default!r}\n      {doc}" + (f" [{kind}]" if kind.startswith("Literal") else ""))
    return "\n".join(lines)


def config_folder() -> Path:
    """Return the folder of the shipped configurations: in the installed package, or next to it in a checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def find_config(name: str | Path, folder: str = "") -> Path:
    """Return the path of a file, or of a shipped configuration given by bare name, with or without .yaml.

    Args:
        name: path or bare name.
        folder: subfolder of configs/ with the shipped configurations.

    Raises:
        FileNotFoundError: suggests the closest shipped name, and lists all.
    """
    shipped_folder = config_folder() / folder
    for candidate in (Path(name), shipped_folder / name, shipped_folder / f"{name}.yaml"):
        with contextlib.suppress(OSError, ValueError):  # a name that is not a valid path
            if candidate.is_file():
                return candidate
    shipped = sorted(p.name for p in shipped_folder.glob("*.yaml"))
    near = difflib.get_close_matches(str(name), shipped, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise FileNotFoundError(f"no configuration {name}{hint} Shipped: {', '.join(shipped)}")


def _read(path: Path, folder: str = "", parents: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = path.resolve()
    if path in parents:
        raise ValueError(f"{path}: circular _base_")
    tree = _parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected keys and values, got a {type(tree).__name__}")
    base = tree.pop("_base_", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"{path}: _base_ must be the name of one file, got {base!r}")
    sibling = path.parent / base
    base_path = sibling if sibling.is_file() else find_config(base, folder)
    return _merge(_read(base_path, folder, (*parents, path)), tree)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        # ruamel's safe loader raises for duplicate keys
        yaml = YAML(typ="safe", pure=True)
        yaml.Constructor = _Constructor
        return yaml.load(text)
    except RecursionError:
        raise ValueError(f"{where}: not valid YAML: nested too deeply") from None
    except YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from error


def _merge(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in tree.items():
        base_value = merged.get(key)
        merged[key] = _merge(base_value, value) if isinstance(base_value, dict) and isinstance(value, dict) else value
    _drop_alternatives(merged.get("solver"), tree.get("solver"))
    return merged


def _drop_alternatives(merged: Any, layer: Any) -> None:
    """Where a layer gives one key of a pair of which one is given, such as max_epochs, drop the other, max_iter, which lies
    below it; both in one layer stay, and are an error of the schema."""
    if not isinstance(merged, dict) or not isinstance(layer, dict):
        return
    for pair in SolverConfig.either:
        given = [key for key in pair if layer.get(key) is not None]
        if len(given) == 1:
            merged.pop(pair[1 - pair.index(given[0])], None)


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise ValueError(f"{key}: {group} is a value, not a group of keys")
    tree[leaf] = value


def _typed(tree: dict[str, Any], group: type) -> dict[str, Any]:
    """Return nested dictionaries with the text, as typed, of numbers at keys that are text, and plain numbers elsewhere."""
    hints = typing.get_type_hints(group)
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if dataclasses.is_dataclass(hints[key]):
            result[key] = _typed(value, typing.cast(type, hints[key]))
        else:
            is_text = hints[key] in (str, str | None)
            result[key] = value.text if is_text and isinstance(value, _Int | _Float) else _plain(value)
    return result


def _plain(value: Any) -> Any:
    """Return a value of a YAML file without the text of its numbers."""
    if isinstance(value, _Int | _Float):
        return int(value) if isinstance(value, _Int) else float(value)
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _walk(group: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Yield (dotted key, type, default, description) of every leaf."""
    # groups that are passed to constructors are documented there
    sources = (*getattr(group, "documented_by", ()), group)
    parameters = [p for source in sources for p in parse_docstring(source.__doc__ or "").params]
    docs = {p.arg_name: " ".join((p.description or "").split()) for p in parameters}
    hints = typing.get_type_hints(group)
    for f in dataclasses.fields(group):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type, kind), f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, kind, f.default, docs.get(f.name, "")


def _keys(group: type, prefix: str = "") -> list[str]:
    return [key for key, *_ in _walk(group, prefix)]


def _unknown_keys(tree: dict[str, Any], group: type, schema: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(group)
    names = [f.name for f in dataclasses.fields(group)]
    for key, value in tree.items():
        full = f"{prefix}{key}"
        if key not in names:
            yield f"unknown key {full}{_nearest(full, str(key), [prefix + n for n in names], schema)}"
        elif dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                first = _keys(typing.cast(type, hints[key]), f"{full}.")[0]
                yield f"{full} is a group of keys, got {value!r}; write e.g. {first}=…"
            else:
                yield from _unknown_keys(value, typing.cast(type, hints[key]), schema, f"{full}.")


def _nearest(full: str, leaf: str, siblings: list[str], schema: type) -> str:
    other_names: dict[str, str] = getattr(schema, "other_names", {})
    if leaf in other_names:
        return f": {other_names[leaf]}"
    all_keys = _keys(schema)
    near = difflib.get_close_matches(full, siblings, n=1, cutoff=0.75) or [
        k for k in all_keys if k.rpartition(".")[2] == leaf
    ]
    near = near or difflib.get_close_matches(full, all_keys, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; valid keys: {', '.join(siblings)}"
