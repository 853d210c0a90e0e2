"""Small networks out of kernel namespaces: public hosts, hosts behind address translators, links.

    with Internet() as net:                                 # 203.0.113.0/24
        seeder = net.add_host("seeder")                     # 203.0.113.10
        viewer = net.add_host("viewer", Nat.SYMMETRIC)      # 10.0.11.2 behind 203.0.113.11
        seeder.block_inbound(tcp=[7000])
        viewer.run("ip", "address")

The four kinds of translators (RFC 3489's words), made with nftables:

- full cone: what a port sent out from, everybody may answer;
- address restricted: the hosts it sent to may, from any port;
- port restricted: the very endpoints it sent to may; the port outside is the one inside;
- symmetric: likewise, and every destination sees another, random port.

Needs root, iproute2, nftables; `missing()` says what is not there. The kernel's netem is not used:
`Link` passes bytes of a TCP connection on with a delay and at a rate, in user space.
"""

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

ResultT = TypeVar("ResultT")

_CLONE_NEWNET = 0x40000000
_FIRST_HOST = 10


class Nat(StrEnum):
    """What stands between a host and the internet."""

    NONE = "none"
    FULL_CONE = "full cone"
    ADDRESS_RESTRICTED = "address restricted"
    PORT_RESTRICTED = "port restricted"
    SYMMETRIC = "symmetric"


NATS = tuple(nat for nat in Nat if nat is not Nat.NONE)


def missing() -> str:
    """Return why there can be no networks here; "" when there can."""
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(
        ["unshare", "--net", "nft", "add", "table", "ip", "probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    return probe.stderr.strip()


def run(*words: str, stdin: str | None = None) -> str:
    """Run a program to its end; its output."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}\n{stdin or ''}"
    return done.stdout


def call_in(namespace: str, function: Callable[[], ResultT]) -> ResultT:
    """Call a function in a namespace; sockets that it makes stay there for good."""
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def _enter(namespace: str) -> None:
    with Path("/run/netns", namespace).open() as handle:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


@dataclass
class Host:
    """A machine in a namespace of its own, public or behind a translator."""

    name: str
    namespace: str
    ip: str
    """Its own address."""

    public_ip: str
    """The address that the internet sees."""

    nat: Nat
    router: str = ""
    """Namespace of the translator, if there is one."""

    def run(self, *words: str) -> str:
        """Run a program there to its end; its output."""
        return run("ip", "netns", "exec", self.namespace, *words)

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function there; sockets that it makes stay there."""
        return call_in(self.namespace, function)

    def block_inbound(self, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Drop what comes in for these ports, as a firewall on the machine does."""
        rules = [
            f"add rule ip host input {kind} dport {port} drop"
            for kind, ports in (("tcp", tcp), ("udp", udp))
            for port in ports
        ]
        self._nft("\n".join([_HOST_TABLE, *rules]))

    def forward_port(self, port: int, *, tcp: bool = True, udp: bool = True) -> None:
        """Let the translator pass a port on to this host, as an owner sets it by hand."""
        assert self.router, f"{self.name}: got no translator, want one"
        rules = [
            f"insert rule ip nat prerouting iifname wan {kind} dport {port} dnat to {self.ip}"
            for kind, wanted in (("tcp", tcp), ("udp", udp))
            if wanted
        ]
        run("ip", "netns", "exec", self.router, "nft", "-f", "-", stdin="\n".join(rules))

    def _nft(self, rules: str) -> None:
        run("ip", "netns", "exec", self.namespace, "nft", "-f", "-", stdin=rules)


_HOST_TABLE = """
add table ip host
add chain ip host input { type filter hook input priority 0; policy accept; }
"""


def translator_rules(nat: Nat, inner_ip: str) -> str:
    """Return the nftables rules of a translator before one host; interfaces `wan` and `lan`."""
    masquerade = "masquerade random,fully-random" if nat is Nat.SYMMETRIC else "masquerade"
    note, admit = "", ""
    if nat is Nat.FULL_CONE:
        kind, note = "inet_proto . inet_service", "meta l4proto . th sport"
        admit = "meta l4proto . th dport"
    elif nat is Nat.ADDRESS_RESTRICTED:
        kind, note = "inet_proto . inet_service . ipv4_addr", "meta l4proto . th sport . ip daddr"
        admit = "meta l4proto . th dport . ip saddr"
    rules = [
        "table ip nat {",
        f"  set known {{ type {kind}; flags dynamic,timeout; timeout 5m; }}" if note else "",
        "  chain prerouting { type nat hook prerouting priority -100;",
        f"    iifname wan meta l4proto {{ tcp, udp }} {admit} @known dnat to {inner_ip}"
        if admit
        else "",
        "  }",
        "  chain postrouting { type nat hook postrouting priority 100;",
        f"    oifname wan {masquerade}",
        "  }",
        "  chain forward { type filter hook forward priority 0; policy drop;",
        f"    iifname lan meta l4proto {{ tcp, udp }} update @known {{ {note} }}" if note else "",
        "    ct state established,related accept",
        "    iifname lan accept",
        "    ct status dnat accept",
        "  }",
        # A home router answers nobody from outside.
        "  chain input { type filter hook input priority 0; policy accept;",
        "    iifname wan ct state new drop",
        "  }",
        "}",
    ]
    return "\n".join(rules)


@dataclass
class Internet:
    """A bridge with hosts on it; everything is gone at the end."""

    tag: str = field(default_factory=lambda: f"sl{os.getpid()}")
    hosts: dict[str, Host] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def namespace(self) -> str:
        """Where the bridge is; its address is 203.0.113.1."""
        return f"{self.tag}-net"

    @property
    def ip(self) -> str:
        """The bridge's address: a public host for whatever is served in `namespace`."""
        return "203.0.113.1"

    def __enter__(self) -> Self:
        try:
            self._make_bridge()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _make_bridge(self) -> None:
        self._add_namespace(self.namespace)
        run("ip", "-n", self.namespace, "link", "add", "name", "bridge", "type", "bridge")
        run("ip", "-n", self.namespace, "address", "add", f"{self.ip}/24", "dev", "bridge")
        run("ip", "-n", self.namespace, "link", "set", "bridge", "up")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function in the bridge's namespace; sockets that it makes stay there."""
        return call_in(self.namespace, function)

    def add_host(self, name: str, nat: Nat = Nat.NONE) -> Host:
        """Add a host, and a translator before it unless the kind is `NONE`."""
        number = _FIRST_HOST + len(self.hosts)
        public_ip, namespace = f"203.0.113.{number}", f"{self.tag}-{name}"
        self._add_namespace(namespace)
        if nat is Nat.NONE:
            self._join(namespace, number, public_ip)
            host = Host(name, namespace, public_ip, public_ip, nat)
        else:
            router, inner = f"{namespace}-nat", f"10.0.{number}"
            self._add_namespace(router)
            self._join(router, number, public_ip)
            run("ip", "-n", router, "link", "add", "lan", "type", "veth", "peer", "name", "eth0",
                "netns", namespace)  # fmt: skip
            for where, device, ip in ((router, "lan", 1), (namespace, "eth0", 2)):
                run("ip", "-n", where, "address", "add", f"{inner}.{ip}/24", "dev", device)
                run("ip", "-n", where, "link", "set", device, "up")
            run("ip", "-n", namespace, "route", "add", "default", "via", f"{inner}.1")
            run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            rules = translator_rules(nat, f"{inner}.2")
            run("ip", "netns", "exec", router, "nft", "-f", "-", stdin=rules)
            host = Host(name, namespace, f"{inner}.2", public_ip, nat, router)
        self.hosts[name] = host
        return host

    def _join(self, namespace: str, number: int, ip: str) -> None:
        """Give a namespace an interface `wan` on the bridge."""
        run("ip", "-n", self.namespace, "link", "add", f"v{number}", "type", "veth", "peer",
            "name", "wan", "netns", namespace)  # fmt: skip
        run("ip", "-n", self.namespace, "link", "set", f"v{number}", "master", "bridge", "up")
        run("ip", "-n", namespace, "address", "add", f"{ip}/24", "dev", "wan")
        run("ip", "-n", namespace, "link", "set", "wan", "up")

    def _add_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "-n", name, "link", "set", "lo", "up")


@dataclass
class PortMapper:
    """A NAT-PMP server (RFC 6886) on a host's translator: forwards the ports it is asked for."""

    host: Host
    mapped: dict[tuple[str, int], int] = field(default_factory=dict)
    """Outside port by protocol and inside port."""

    shift: int = 0
    """Added to each wanted outside port, so that tests see it used."""

    def __enter__(self) -> Self:
        self._gateway = self.host.ip.rsplit(".", 1)[0] + ".1"
        self._socket = call_in(self.host.router, self._bind)
        self._socket.settimeout(0.1)
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()
        self._socket.close()

    def _bind(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((self._gateway, 5351))
        return made

    def _serve(self) -> None:
        while not self._stops.is_set():
            with suppress(TimeoutError):
                request, sender = self._socket.recvfrom(1100)
                self._socket.sendto(self._answer(request), sender)

    def _answer(self, request: bytes) -> bytes:
        version, operation = request[0], request[1]
        epoch = (1).to_bytes(4, "big")
        if version != 0:
            return bytes([0, 128 | operation, 0, 1]) + epoch  # unsupported version
        if operation == 0:
            return bytes([0, 128, 0, 0]) + epoch + socket.inet_aton(self.host.public_ip)
        kind = {1: "udp", 2: "tcp"}[operation]
        inside = int.from_bytes(request[4:6], "big")
        lifetime = int.from_bytes(request[8:12], "big")
        outside = (int.from_bytes(request[6:8], "big") or inside) + self.shift
        if lifetime and (kind, inside) not in self.mapped:
            self.mapped[kind, inside] = outside
            rule = (
                f"insert rule ip nat prerouting iifname wan {kind} dport {outside}"
                f" dnat to {self.host.ip}:{inside}"
            )
            run("ip", "netns", "exec", self.host.router, "nft", "-f", "-", stdin=rule)
        ports = inside.to_bytes(2, "big") + outside.to_bytes(2, "big")
        return bytes([0, 128 | operation, 0, 0]) + epoch + ports + lifetime.to_bytes(4, "big")


class Link:
    """A TCP port whose connections are passed on with a delay and at a rate; both directions."""

    def __init__(self, target: tuple[str, int], *, delay_s: float, rate_bytes: int) -> None:
        self._target = target
        self._delay_s = delay_s
        self._rate_bytes = rate_bytes
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Begin to take connections."""
        self._server = await asyncio.start_server(self._pass_on, sock=listener)

    async def close(self) -> None:
        """Take no more, and end all there are."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        free_s = loop.time()
        with suppress(OSError):
            while data := await source.read(1 << 14):
                free_s = max(free_s, loop.time()) + len(data) / self._rate_bytes
                due_s = free_s + self._delay_s
                loop.call_at(due_s, sink.write, data)
                await asyncio.sleep(max(0.0, free_s - loop.time()))
            await asyncio.sleep(self._delay_s)
        sink.close()
