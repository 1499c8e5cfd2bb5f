"""A frontend before Temporal, as clouds and meshes have them: TLS, client certificates, API keys, and refused calls."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc  # type: ignore[import-untyped]

from tests.support.certificates import Certificates

StatusCode = grpc.StatusCode

OPERATOR: Final = "/temporal.api.operatorservice.v1.OperatorService/"
COUNT: Final = "/temporal.api.workflowservice.v1.WorkflowService/CountWorkflowExecutions"
HOST: Final = "127.0.0.1"
NOT_PASSED_ON: Final = ("authorization", "user-agent", "grpc-", ":")


def credentials(certificates: Certificates, *, ask_client: bool) -> grpc.ServerCredentials:
    """Of a server on this machine, which may demand the certificate of a client."""
    certificate, key = certificates.of_server(HOST)
    root = certificates.ca_file.read_bytes() if ask_client else None
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], root, require_client_auth=ask_client
    )


def settings(certificates: Certificates, client: str | None = None) -> dict[str, str]:
    """The settings that trust the server, and show the certificate of `client`."""
    trust = {"TEMPORAL_TLS": "true", "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(certificates.ca_file)}
    if client is None:
        return trust
    certificate, key = certificates.of_client(client)
    return trust | {"TEMPORAL_TLS_CLIENT_CERT_PATH": str(certificate), "TEMPORAL_TLS_CLIENT_KEY_PATH": str(key)}


@dataclass
class Frontend(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Passes every call on to the server at `target`, but for those whose path begins with one of `refused`."""

    target: str
    refused: Mapping[str, grpc.StatusCode] = field(default_factory=dict)
    api_key: str | None = None
    calls: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serve(self, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
        """Serve on a free port until the block ends; yields the address."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self,))
        place = f"{HOST}:0"
        port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
        async with grpc.aio.insecure_channel(self.target, [("grpc.max_receive_message_length", -1)]) as channel:
            self._channel = channel
            await server.start()
            try:
                yield f"{HOST}:{port}"
            finally:
                await server.stop(grace=None)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(partial(self._answer, handler_call_details.method))

    async def _answer(self, path: str, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls.append(path)
        given = dict(context.invocation_metadata())
        if self.api_key and given.get("authorization") != f"Bearer {self.api_key}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Request unauthorized.")
        for prefix, status in self.refused.items():
            if path.startswith(prefix):
                await context.abort(status, "Request unauthorized.")
        passed = [(name, value) for name, value in given.items() if not name.startswith(NOT_PASSED_ON)]
        call: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(path)
        try:
            return await call(request, metadata=passed, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", error.trailing_metadata() or ())
        raise AssertionError("abort raises")
