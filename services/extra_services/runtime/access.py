"""The scope that each RPC needs: one table, for all services.

"read" sees, and makes the server compute; "write" adds to a namespace or takes single things out of it;
"admin" replaces or deletes a whole namespace, or changes what the server serves to everyone. The namespace is
that of the request. What has none counts as in one of the server's own: @generation, @verification, @novelty.
"""

from dataclasses import dataclass

from extra_services.runtime.tokens import Scope


@dataclass(frozen=True)
class Need:
    """A scope, and the namespace it is needed in."""

    scope: Scope
    #: The request's field that names the namespace (of a stream: in its first message), or "".
    field: str = ""
    #: The namespace where there is no such field.
    namespace: str = ""


def _of(service: str, needs: dict[str, tuple[Need, ...]]) -> dict[str, tuple[Need, ...]]:
    return {f"/extra_rl.v1.{service}/{rpc}": need for rpc, need in needs.items()}


_READ = (Need("read", "namespace"),)
_WRITE = (Need("write", "namespace"),)
_ADMIN = (Need("admin", "namespace"),)

NEEDS: dict[str, tuple[Need, ...]] = {
    **_of(
        "GenerationService",
        {
            "Generate": (Need("read", namespace="@generation"),),
            "GetInfo": (Need("read", namespace="@generation"),),
            "UpdateWeights": (Need("admin", namespace="@generation"),),
            "StreamWeights": (Need("admin", namespace="@generation"),),
        },
    ),
    **_of(
        "VerificationService",
        {
            "Verify": (Need("read", namespace="@verification"),),
            "VerifyStream": (Need("read", namespace="@verification"),),
        },
    ),
    **_of(
        "NoveltyService",
        {
            # Names of all namespaces: not for those who may see some.
            "ListNamespaces": (Need("read", namespace="@novelty"),),
            "DescribeNamespace": _READ,
            "QueryNeighbors": _READ,
            "ListPrompts": _READ,
            "ExportNamespace": _READ,
            "CreateNamespace": _WRITE,
            "ScoreGroups": _WRITE,
            "CollectSample": _WRITE,
            "DeletePrompts": _WRITE,
            "CopyNamespace": (Need("read", "source"), Need("admin", "destination")),
            "DeleteNamespace": _ADMIN,
            "ImportNamespace": _ADMIN,
        },
    ),
    **_of(
        "PrefixService",
        {
            "SelectPrefixes": _READ,
            "ListPrefixes": _READ,
            "AddRollouts": _WRITE,
            "ReportOutcomes": _WRITE,
            "ForgetPrefixes": _WRITE,
        },
    ),
}
