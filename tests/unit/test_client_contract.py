"""The client covers the API: every RPC, every enum value, in both front ends alike, without heavy imports."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from enum import StrEnum
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor, ServiceDescriptor

import extra_client
from extra_client import aio
from extra_client._transport import SERVICES
from extra_rl.v1 import generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2

PROTOS = (generation_pb2, namespace_pb2, novelty_pb2, prefix_pb2, verification_pb2)
CLIENTS = ("GenerationClient", "NamespaceClient", "NoveltyClient", "PrefixClient", "VerificationClient")

#: RPCs whose method has a shorter name, because the client already says the rest.
SHORTER = {
    "CreateNamespace": "create",
    "DescribeNamespace": "describe",
    "CopyNamespace": "copy_to",
    "DeleteNamespace": "delete",
    "SelectPrefixes": "select",
    "ExportNamespace": "export_to",
    "ImportNamespace": "import_from",
}

#: Messages whose fields are those of a dataclass of another name.
RENAMED = {
    "GenerationServiceGetInfoResponse": "GenerationInfo",
    "NamespaceServiceGetInfoResponse": "NamespaceInfo",
    "NoveltyServiceGetInfoResponse": "NoveltyInfo",
    "PrefixServiceGetInfoResponse": "PrefixInfo",
    "VerificationServiceGetInfoResponse": "VerificationInfo",
    "UpdateWeightsResponse": "WeightsUpdate",
    "GenerationTimings": "Timings",
    "DescribeNamespaceResponse": "Namespace",
    "CopyNamespaceResponse": "NamespaceCopy",
    "ImportNamespaceResponse": "ImportedNamespace",
    "CollectSampleResponse": "SampleScore",
}


def services() -> list[ServiceDescriptor]:
    return [service for proto in PROTOS for service in proto.DESCRIPTOR.services_by_name.values()]


def enums() -> list[EnumDescriptor]:
    outer = [enum for proto in PROTOS for enum in proto.DESCRIPTOR.enum_types_by_name.values()]
    messages = [message for proto in PROTOS for message in proto.DESCRIPTOR.message_types_by_name.values()]
    return outer + [enum for message in messages for enum in message.enum_types]


def messages() -> list[Descriptor]:
    """Those that have a dataclass; the fields of the others are arguments or results of a method."""
    every = [message for proto in PROTOS for message in proto.DESCRIPTOR.message_types_by_name.values()]
    return [
        message
        for message in every
        if dataclasses.is_dataclass(getattr(extra_client, dataclass_name(message), None))
    ]


def dataclass_name(message: Descriptor) -> str:
    return RENAMED.get(message.name, message.name)


def method_name(rpc: MethodDescriptor) -> str:
    return SHORTER.get(rpc.name) or re.sub(r"(?<!^)(?=[A-Z])", "_", rpc.name).lower()


@pytest.mark.parametrize("module", [extra_client, aio], ids=["sync", "aio"])
@pytest.mark.parametrize("service", services(), ids=lambda service: service.name)
def test_every_rpc_has_a_client_method(service: ServiceDescriptor, module: Any) -> None:
    client = getattr(module, service.name.removesuffix("Service") + "Client")
    for rpc in service.methods:
        assert callable(getattr(client, method_name(rpc))), rpc.full_name


@pytest.mark.parametrize("enum", enums(), ids=lambda enum: enum.name)
def test_every_enum_value_has_a_python_member(enum: EnumDescriptor) -> None:
    outer = enum.containing_type.name if enum.containing_type else ""
    kind: type[StrEnum] = getattr(extra_client, outer + enum.name)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    assert [member.name for member in kind] == [
        value.name.removeprefix(prefix) for value in enum.values if value.number
    ]


def test_every_rpc_is_retried_or_known_to_be_unsafe_to_repeat() -> None:
    retried = {(service.full_name, rpc) for service in SERVICES for rpc in service.retried}
    unsafe = {("extra_rl.v1.NamespaceService", rpc) for rpc in ("CopyNamespace", "ImportNamespace")}
    # What a stream has sent is gone.
    unsafe |= {("extra_rl.v1.VerificationService", "VerifyStream")}
    unsafe |= {("extra_rl.v1.GenerationService", "StreamWeights")}
    assert retried | unsafe == {
        (service.full_name, rpc.name) for service in services() for rpc in service.methods
    }
    assert not retried & unsafe


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.name)
def test_every_field_of_a_message_is_one_of_its_dataclass(message: Descriptor) -> None:
    kind = getattr(extra_client, dataclass_name(message))
    fields = {field.name for field in message.fields} - {UNDECIDED}
    assert fields <= {field.name for field in dataclasses.fields(kind)}


#: Field of messages that is an entry None of `correct` in the client.
UNDECIDED = "undecided"

#: Fields of requests that are arguments under another name, or say what the client says by itself.
ELSEWHERE = {
    "namespace",  # of the client
    "source",  # likewise
    "items",  # responses and answers
    "sampling",  # its fields are arguments
    "header",  # its fields are arguments
    "chunk",  # made of tensors, or of a file
    "page_token",  # the client turns the pages
    UNDECIDED,
}


@pytest.mark.parametrize("service", services(), ids=lambda service: service.name)
def test_every_field_of_a_request_is_an_argument_of_its_method(service: ServiceDescriptor) -> None:
    client = getattr(extra_client, service.name.removesuffix("Service") + "Client")
    for rpc in service.methods:
        fields = {field.name for field in rpc.input_type.fields} - ELSEWHERE
        if rpc.name == "Generate":
            fields |= {field.name for field in generation_pb2.SamplingParams.DESCRIPTOR.fields}
        if rpc.name.startswith("Verify"):
            fields |= {"method", "options"}
            fields -= {"id", "item"}
        arguments = set(inspect.signature(getattr(client, method_name(rpc))).parameters)
        if rpc.name == "CollectSample":
            arguments |= set(extra_client.SampleOptions.__annotations__)
        if rpc.name == "Generate":
            arguments |= {"stream_tokens", *extra_client.GenerateOptions.__annotations__}
        assert fields <= arguments, rpc.full_name


@pytest.mark.parametrize("name", CLIENTS)
def test_asyncio_clients_take_the_same_arguments_as_blocking_ones(name: str) -> None:
    sync, other = (
        {method: inspect.signature(value) for method, value in public(getattr(module, name)).items()}
        for module in (extra_client, aio)
    )
    assert sync.keys() == other.keys()
    for method, signature in sync.items():
        assert {key: value.replace(annotation=None) for key, value in signature.parameters.items()} == {
            key: value.replace(annotation=None) for key, value in other[method].parameters.items()
        }, method


def public(client: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_importing_the_client_loads_nothing_heavy() -> None:
    program = "import extra_client, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    )
    packages = {module.partition(".")[0] for module in loaded}
    assert "numpy" in packages
    assert not packages & {
        "torch",
        "transformers",
        "pydantic",
        "faiss",
        "sympy",
        "yaml",
        "extra_services",
        "typer",
    }
