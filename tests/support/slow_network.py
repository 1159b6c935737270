"""A throttling TCP proxy: simulates a slow network on kernels without netem."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SlowNetwork:
    """A proxy from `address` to `host`:`port` that delays and throttles each direction."""

    def __init__(self, host: str, port: int, seconds: float, bytes_per_second: float) -> None:
        self._to, self._seconds, self._rate = (host, port), seconds, bytes_per_second
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, onward = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass_on(reader, onward), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward each piece `seconds` after its arrival, and after the pieces before it."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def receive() -> None:
            piece = b"begun"
            while piece:
                try:
                    piece = await reader.read(4096)
                except OSError:
                    piece = b""
                await pieces.put((self._loop.time() + self._seconds, piece))

        receiving = asyncio.create_task(receive())
        try:
            while (entry := await pieces.get())[1]:
                await asyncio.sleep(max(entry[0] - self._loop.time(), len(entry[1]) / self._rate))
                writer.write(entry[1])
                await writer.drain()
        except OSError:
            pass
        finally:
            receiving.cancel()
            writer.close()

    def close(self) -> None:
        """End all connections."""

        async def end() -> None:
            self._server.close()
            ending = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def slow_network(
    host: str, port: int, seconds: float = 0.2, bytes_per_second: float = 200_000
) -> Iterator[SlowNetwork]:
    """Run a slow proxy to `host`:`port` for the duration of the context."""
    network = SlowNetwork(host, port, seconds, bytes_per_second)
    try:
        yield network
    finally:
        network.close()
