"""A real novelty server process for tests, which can be killed and started again on the same data."""

import os
import signal
import subprocess
import time
from pathlib import Path

import grpc

from extra_rl.v1 import namespace_pb2 as ns
from extra_rl.v1 import namespace_pb2_grpc, novelty_pb2_grpc, prefix_pb2_grpc
from support.processes import PATIENCE, SERVICES_PYTHON


class Server:
    """A novelty server process with a data folder."""

    def __init__(self, folder: Path, *flags: str) -> None:
        address = folder / "address"
        address.unlink(missing_ok=True)
        (folder / "socket").unlink(missing_ok=True)
        self.log = folder / "log"
        arguments = [f"--host=unix:{folder / 'socket'}", f"--address-file={address}", *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    SERVICES_PYTHON,
                    "-m",
                    "extra_services.novelty.main",
                    f"--data-folder={folder / 'data'}",
                    *arguments,
                ],
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.channel = grpc.insecure_channel(f"unix:{folder / 'socket'}")
        self.namespaces = namespace_pb2_grpc.NamespaceServiceStub(self.channel)
        self.novelty = novelty_pb2_grpc.NoveltyServiceStub(self.channel)
        self.prefix = prefix_pb2_grpc.PrefixServiceStub(self.channel)

    def ready(self) -> "Server":
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.namespaces.ListNamespaces(
                    ns.ListNamespacesRequest(), wait_for_ready=True, timeout=PATIENCE
                )
                break
            except grpc.RpcError as error:
                # gRPC shares connections: this call may have used the one to the server that was just killed.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                    raise AssertionError(self.log.read_text()) from error
        return self

    def __enter__(self) -> "Server":
        try:
            return self.ready()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """End the process, whatever has happened."""
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        self.channel.close()
