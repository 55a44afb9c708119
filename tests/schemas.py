"""The schemas that the package ships, for the tests that validate what the commands print."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from referencing import Registry, Resource

import bootc_fast

DIRECTORY = Path(bootc_fast.__file__).parent / "schemas"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}
_REGISTRY = Registry().with_resources(
    (f"{name}.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)


def validate(name: str, document: object) -> None:
    """Compare a document with a schema of the package.

    Raises:
        jsonschema.ValidationError: It is not valid.
    """
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(SCHEMAS[name], registry=_REGISTRY, format_checker=checker).validate(document)
