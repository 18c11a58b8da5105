"""YAML as plain values: numbers, words, lists and mappings, no more of them than a person would write."""

import re

import yaml

MAX_TEXT = 1 << 18
"""Bytes of a YAML file, at most: a class table of 255 rows has 20,000."""

MAX_NODES, MAX_DEPTH = 20_000, 50
"""Values of a YAML text, an alias counting as all that it stands for, and levels of nesting, at most."""


def parse_yaml(text: str, as_text: bool = False) -> object:
    """The values of a YAML text, a key that stands twice being an error.

    YAML 1.1 with the numbers of 1.2: ``1e-3`` and ``1e1`` are numbers, ``010`` is ten, a date or ``1:30`` is text.
    ``yes``, ``no``, ``on`` and ``off`` are true or false, and ``none`` is null.

    Args:
        text: one document.
        as_text: numbers, ``off``, ``none`` and the like stay the words that they are.

    Raises:
        yaml.YAMLError: not valid YAML, or more of it than ``MAX_NODES`` and ``MAX_DEPTH`` allow.
    """

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}  # noqa: RUF012  YAML 1.1 takes 010 for eight and 1:30 for ninety
        depth, nodes = 0, 0

        def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
            mark, before, is_alias = self.peek_event().start_mark, self.nodes, self.check_event(yaml.AliasEvent)
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_DEPTH} levels", mark)
            node = super().compose_node(parent, index)
            if is_alias and not hasattr(node, "held"):
                raise yaml.composer.ComposerError(None, None, "an alias within what it stands for", mark)
            self.nodes += node.held if is_alias else 1
            if self.nodes > MAX_NODES:
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} values", mark)
            node.held, self.depth = self.nodes - before, self.depth - 1
            return node

        def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for place, key in enumerate(keys):
                if key in keys[:place]:
                    raise yaml.composer.ComposerError(None, None, f"the key {key!r} stands twice", node.start_mark)
            return node

    def whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
        return int(node.value, 0 if node.value.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)

    def number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
        value = float(re.sub(r"\.(?=[a-z])", "", node.value, flags=re.IGNORECASE))  # .inf, .nan
        return int(value) if "e" in node.value.lower() and value.is_integer() else value

    digits = "[0-9]+(_[0-9]+)*"
    scalars = {
        "null": "~|null|none|",
        "bool": "yes|no|on|off|true|false",
        "int": f"[-+]?(0x[0-9a-f]+|0o[0-7]+|0b[01]+|{digits})",
        "float": rf"[-+]?({digits}\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "merge": "<<",
    }
    for name, pattern in scalars.items() if not as_text else ():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"({pattern})$", re.IGNORECASE), None)
    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    Loader.add_constructor("tag:yaml.org,2002:float", number)
    try:
        return yaml.load(text, Loader)
    except (ValueError, KeyError, AttributeError) as error:  # !!int "x"
        raise yaml.YAMLError(f"a value that is not of its tag: {error}") from None
