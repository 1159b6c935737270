"""Takes gRPC method handlers apart and makes new ones, for interceptors that wrap each call."""

from typing import Any

import grpc


def behaviour_of(handler: Any) -> Any:
    """Return the function that serves the RPC, for any of the four kinds of handler."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def remade(handler: Any, around: Any, request_deserializer: Any) -> Any:
    """Return a handler of the same kind that calls `around.unary`, or for streams `around.stream`."""
    requests, responses = (
        "stream" if streaming else "unary"
        for streaming in (handler.request_streaming, handler.response_streaming)
    )
    make = getattr(grpc, f"{requests}_{responses}_rpc_method_handler")
    return make(
        getattr(around, responses),
        request_deserializer=request_deserializer,
        response_serializer=handler.response_serializer,
    )
