"""gRPC method handlers taken apart and made anew, for the interceptors that put something around each."""

from typing import Any

import grpc


def behaviour_of(handler: Any) -> Any:
    """The function that serves the RPC, whichever of the four kinds it is of."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def remade(handler: Any, around: Any, request_deserializer: Any) -> Any:
    """A handler of the same kind whose calls go to `around`: those answered with a stream to its `stream`."""
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
