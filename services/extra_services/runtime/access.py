"""The scope that each RPC requires: one table, for all services.

"read" allows to look and to make the server compute; "write" allows to add to a namespace and to delete
single entries; "admin" allows to replace or delete a whole namespace, and to change the weights that all
callers get. The namespace is the one the request names. RPCs without one count as calls in a namespace of the
server itself: @generation, @verification or @novelty.
"""

from dataclasses import dataclass

from extra_services.runtime.tokens import Scope


@dataclass(frozen=True)
class RequiredScope:
    """A scope, and the namespace in which the caller needs it."""

    scope: Scope
    #: Field of the request that names the namespace (of a stream: in its first message), or "".
    field: str = ""
    #: The namespace where there is no such field.
    namespace: str = ""


def _of(service: str, scopes: dict[str, tuple[RequiredScope, ...]]) -> dict[str, tuple[RequiredScope, ...]]:
    return {f"/extra_rl.v1.{service}/{rpc}": required for rpc, required in scopes.items()}


_READ = (RequiredScope("read", "namespace"),)
_WRITE = (RequiredScope("write", "namespace"),)
_ADMIN = (RequiredScope("admin", "namespace"),)
_READ_GENERATION = (RequiredScope("read", namespace="@generation"),)
_ADMIN_GENERATION = (RequiredScope("admin", namespace="@generation"),)
_READ_VERIFICATION = (RequiredScope("read", namespace="@verification"),)
_READ_NOVELTY = (RequiredScope("read", namespace="@novelty"),)

#: Full method name -> scopes the caller must have, all of them.
REQUIRED_SCOPES: dict[str, tuple[RequiredScope, ...]] = {
    **_of(
        "GenerationService",
        {
            "Generate": _READ_GENERATION,
            "GetInfo": _READ_GENERATION,
            "UpdateWeights": _ADMIN_GENERATION,
            "StreamWeights": _ADMIN_GENERATION,
        },
    ),
    **_of(
        "VerificationService",
        {
            "Verify": _READ_VERIFICATION,
            "VerifyStream": _READ_VERIFICATION,
            "GetInfo": _READ_VERIFICATION,
        },
    ),
    **_of(
        "NamespaceService",
        {
            # It shows the names of all namespaces, also to a token that may read only some.
            "ListNamespaces": _READ_NOVELTY,
            "GetInfo": _READ_NOVELTY,
            "DescribeNamespace": _READ,
            "ListPrompts": _READ,
            "ExportNamespace": _READ,
            "CreateNamespace": _WRITE,
            "DeletePrompts": _WRITE,
            "CopyNamespace": (RequiredScope("read", "source"), RequiredScope("admin", "destination")),
            "DeleteNamespace": _ADMIN,
            "ImportNamespace": _ADMIN,
        },
    ),
    **_of(
        "NoveltyService",
        {
            "GetInfo": _READ_NOVELTY,
            "QueryNeighbors": _READ,
            "Embed": _READ,
            "ScoreGroups": _WRITE,
            "CollectSample": _WRITE,
        },
    ),
    **_of(
        "PrefixService",
        {
            "GetInfo": _READ_NOVELTY,
            "SelectPrefixes": _READ,
            "ListPrefixes": _READ,
            "AddRollouts": _WRITE,
            "ReportOutcomes": _WRITE,
            "ForgetPrefixes": _WRITE,
        },
    ),
}
