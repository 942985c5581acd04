# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy of the test's own, between two processes that do not know of it: it refuses, cuts,
stalls, delays, holds one request of many, and lets everything go again."""

import asyncio
import contextlib
import socket
import threading

from kekd import PATIENCE, free_port

CHUNK = 65536
# Records of TLS 1.3; the last of a client's handshake is told by its length, that of a SHA-256 or
# SHA-384 Finished.
HANDSHAKE, CHANGE_CIPHER, APPLICATION = 0x16, 0x14, 0x17
FINISHED = (53, 69)
QUEUE = 64  # chunks on their way in one direction


class Loop:
    """The one thread that all proxies of a test process run in."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="proxies").start()

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)


_loop = None


def the_loop():
    global _loop
    if _loop is None:
        _loop = Loop()
    return _loop


class Held:
    """A request that was taken from the client and not given to the server."""

    def __init__(self, skip, match):
        self.skip, self.match = skip, match
        self.connection = None
        self.data = b""
        self.caught = threading.Event()

    def wait(self, seconds=PATIENCE):
        assert self.caught.wait(seconds), "no such request came"
        return self.data

    def release(self):
        """It goes on to the server."""
        the_loop().do(self.connection.let_go())

    def drop(self):
        """Its connection is reset: the server never sees it."""
        the_loop().do(self.connection.abort())

    def cut_answer(self):
        """It goes on to the server, and its answer never comes: the connection is reset once the
        server has begun to answer."""
        the_loop().do(self.connection.cut_answer())


class Handshake:
    """Where in what a TLS client sends its first request begins."""

    def __init__(self):
        self.buffer = b""
        self.changed = self.done = False

    def behind(self, data):
        if self.done:
            return data
        self.buffer += data
        while len(self.buffer) >= 5 and not self.done:
            kind, length = self.buffer[0], int.from_bytes(self.buffer[3:5], "big")
            if len(self.buffer) < 5 + length:
                break
            self.changed = self.changed or kind == CHANGE_CIPHER
            self.done = self.changed and kind == APPLICATION and length in FINISHED
            self.buffer = self.buffer[5 + length:]
        return self.buffer if self.done else b""


class Connection:
    def __init__(self, proxy, reader, writer):
        self.proxy = proxy
        self.client = (reader, writer)
        self.server = None
        self.handshake = None  # or False: not TLS
        self.held = None
        self.open = asyncio.Event()
        self.open.set()
        self.cutting = False

    async def run(self):
        try:
            self.server = await asyncio.open_connection(*self.proxy.target)
        except OSError:
            await self.abort()
            return
        for _, writer in (self.client, self.server):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self.pump("up", self.client[0], self.server[1]),
                             self.pump("down", self.server[0], self.client[1]))

    async def pump(self, direction, reader, writer):
        queue = asyncio.Queue(QUEUE)
        await asyncio.gather(self.take(direction, reader, queue),
                             self.give(direction, writer, queue))

    async def take(self, direction, reader, queue):
        loop = asyncio.get_running_loop()
        data = b"x"
        while data:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            if direction == "up" and data:
                self.look(data)
            elif data and self.cutting:
                await self.abort()
                return
            await queue.put((loop.time() + self.latency(direction), data))

    def look(self, data):
        if self.handshake is None:
            self.handshake = Handshake() if data[0] == HANDSHAKE else False
        if self.handshake:
            data = self.handshake.behind(data)
        if data:
            self.proxy.offer(self, data)

    def latency(self, direction):
        """Of an answer; the handshake is not made slower: a slow etcd is one with a slow disk."""
        if direction == "up" or (self.handshake and not self.handshake.done):
            return 0
        return self.proxy.seconds

    async def give(self, direction, writer, queue):
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if direction == "up":
                await self.open.wait()
            await self.proxy.gates[direction].wait()
            try:
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                self.proxy.bytes[direction] += len(data)
                await writer.drain()
            except (OSError, RuntimeError, NotImplementedError):
                return

    def hold(self, held, data):
        self.held = held
        self.open.clear()
        held.connection = self
        held.data = data
        held.caught.set()

    async def let_go(self):
        self.open.set()

    async def cut_answer(self):
        self.cutting = True
        self.open.set()

    async def abort(self):
        self.open.set()
        for side in (self.client, self.server):
            if side:
                reset(side[1])


def reset(writer):
    """RST rather than FIN: as when the other end lost its memory."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


class Proxy:
    """Before target:target_port, on a port of its own (self.port) of this host."""

    def __init__(self, target_port, host="127.0.0.1", target="127.0.0.1"):
        self.host = host
        self.target = (target, target_port)
        self.port = free_port()
        self.server = None
        self.connections = {}
        self.seconds = 0
        self.waiting = []
        self.accepted = 0  # connections, since the begin
        self.bytes = {"up": 0, "down": 0}  # handed on; up: to the server
        the_loop().do(self.make())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    async def make(self):
        self.gates = {"up": asyncio.Event(), "down": asyncio.Event()}
        for gate in self.gates.values():
            gate.set()
        await self.listen()

    async def listen(self):
        if self.server is None:
            self.server = await asyncio.start_server(self.accept, self.host, self.port)

    async def accept(self, reader, writer):
        connection = Connection(self, reader, writer)
        self.accepted += 1
        self.connections[connection] = asyncio.current_task()
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass
        finally:
            self.connections.pop(connection, None)
            writer.transport.abort()
            if connection.server:
                connection.server[1].transport.abort()

    def offer(self, connection, data):
        """Is this the request that somebody waits for?"""
        for held in self.waiting:
            if held.match not in data:
                continue
            if held.skip > 0:
                held.skip -= 1
                continue
            self.waiting.remove(held)
            connection.hold(held, data)
            return

    # -- what a test does with it

    def refuse(self):
        """Whoever connects is refused; who is connected stays."""
        async def do():
            if self.server:
                self.server.close()
                self.server = None
        the_loop().do(do())

    def cut(self):
        """Refuses, and resets what is connected."""
        self.refuse()
        self.reset()

    def reset(self):
        """What is connected now is lost; the next connection is served."""
        async def do():
            for connection, task in list(self.connections.items()):
                await connection.abort()
                task.cancel()
        the_loop().do(do())

    def stall(self, direction=None):
        """Takes connections and bytes and hands nothing on; "up": what goes to the server alone,
        "down": what comes from it alone."""
        async def do():
            for name, gate in self.gates.items():
                if direction in (None, name):
                    gate.clear()
        the_loop().do(do())

    def delay(self, seconds):
        """Each answer comes so much later."""
        self.seconds = seconds

    def hold(self, number=1, match=b""):
        """The number-th request from now on that has these bytes (plain HTTP) stops here."""
        held = Held(number - 1, match)

        async def do():
            self.waiting.append(held)
        the_loop().do(do())
        return held

    def heal(self):
        """All as in the beginning. What was stalled goes on."""
        async def do():
            self.seconds = 0
            self.waiting.clear()
            for connection in self.connections:
                connection.open.set()
            for gate in self.gates.values():
                gate.set()
            await self.listen()
        the_loop().do(do())

    def close(self):
        self.cut()


class Proxies:
    """Several that suffer the same: one node's way to every member of etcd."""

    def __init__(self, ports, host="127.0.0.1"):
        self.all = [Proxy(p, host) for p in ports]
        self.ports = [p.port for p in self.all]

    @property
    def bytes(self):
        return {d: sum(p.bytes[d] for p in self.all) for d in ("up", "down")}

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def each(*arguments, **options):
            return [getattr(p, name)(*arguments, **options) for p in self.all]
        return each
