"""An OpenAPI description of the HTTP port, made from the descriptors of the protos."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from extra_rl import __version__

_FAILURE = {
    "code": {"type": "string"},
    "message": {"type": "string"},
    "details": {"type": "array", "items": {}},
}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
_LONG = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_REALS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def openapi(methods: Iterable[Any], posts: Iterable[str]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document.

    Args:
        methods: Descriptors of the unary RPCs.
        posts: Paths of the reward contracts, whose JSON the pages describe.
    """
    schemas: dict[str, Any] = {"Failure": {"type": "object", "properties": _FAILURE}}
    paths: dict[str, Any] = {}
    for method in methods:
        service = method.containing_service
        paths[f"/{service.full_name}/{method.name}"] = _post(
            f"{service.name}.{method.name}",
            service.name,
            _reference(method.input_type, schemas),
            _reference(method.output_type, schemas),
        )
    for path in posts:
        name = path.strip("/").replace("/", ".")
        paths[path] = _post(name, "Rewards", {"type": "object"}, {})
    return {
        "openapi": "3.1.0",
        "info": {"title": "extra-rl", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _post(name: str, tag: str, request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    def body(schema: dict[str, Any], description: str) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    failure = body({"$ref": "#/components/schemas/Failure"}, "It failed; the code says how.")
    return {
        "post": {
            "operationId": name,
            "tags": [tag],
            "requestBody": body(request, "The request.") | {"required": True},
            "responses": {"200": body(response, "The answer."), "default": failure},
        }
    }


def _reference(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a reference to the schema of `message`, which is added to `schemas` with all that it holds."""
    name = message.full_name.removeprefix(f"{message.file.package}.")
    if name not in schemas:
        schemas[name] = {}  # Before its fields, which may hold it again.
        schemas[name] = {
            "type": "object",
            "properties": {each.json_name: _field(each, schemas) for each in message.fields},
            "additionalProperties": False,
        }
    return {"$ref": f"#/components/schemas/{name}"}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _single(entry.fields_by_name["value"], schemas)}
    schema = _single(field, schemas)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _single(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    kind = field.cpp_type
    if field.message_type is not None:
        return _reference(field.message_type, schemas)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return {"type": "boolean"}
    if kind in _INTEGERS:
        return {"type": "integer"}
    if kind in _LONG:
        # JSON of protobuf writes them as texts, and reads both.
        return {"type": ["string", "integer"], "format": "int64"}
    if kind in _REALS:
        return {"type": ["number", "string"], "format": "double"}
    return {"type": "string"}


def _enum(enum: EnumDescriptor) -> dict[str, Any]:
    return {"type": "string", "enum": [value.name for value in enum.values]}
