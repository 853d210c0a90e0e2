"""A network in user space: hosts in namespaces of their own, delay and loss between all of them.

Run as a process by `shaped_network`: every host has a TUN device whose other end is a file here; a
packet is read, lost or held back, and written to the device of its destination. For kernels
without netem. Needs root.
"""

import argparse
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 1500
_BATCH = 64


def open_tun(name: str) -> int:
    """Return the file of a new TUN device."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def run_ip(*arguments: str) -> None:
    """Run `ip` with arguments."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def attach(name: str, address: str, namespace: str) -> int:
    """Make a host's device with an address; in the root namespace if the name of one is ""."""
    descriptor = open_tun(name)
    inside = ["-n", namespace] if namespace else []
    if namespace:
        run_ip("link", "set", name, "netns", namespace)
        run_ip(*inside, "link", "set", "lo", "up")
    run_ip(*inside, "addr", "add", f"{address}/24", "dev", name)
    run_ip(*inside, "link", "set", name, "up", "mtu", str(_MTU))
    return descriptor


def forward(hosts: dict[bytes, int], *, delay_s: float, loss: float) -> None:
    """Carry packets between hosts until killed.

    Args:
        hosts: Files by IPv4 address, 4 bytes.
        delay_s: How long every packet is held back.
        loss: Share of packets that are dropped.
    """
    poll = select.epoll()
    for descriptor in hosts.values():
        poll.register(descriptor, select.EPOLLIN)
    held: deque[tuple[float, int, bytes]] = deque()
    chance = random.Random(1).random  # noqa: S311 - loss, no secret
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else -1.0
        for descriptor, _ in poll.poll(wait_s):
            for _ in range(_BATCH):
                try:
                    packet = os.read(descriptor, 2048)
                except BlockingIOError:
                    break
                target = hosts.get(packet[16:20])
                if target is not None and packet[0] >> 4 == 4 and chance() >= loss:
                    # One delay for all: the order of arrival is the order of leaving.
                    held.append((time.monotonic() + delay_s, target, packet))
        now_s = time.monotonic()
        while held and held[0][0] <= now_s:
            _, target, packet = held.popleft()
            try:
                os.write(target, packet)
            except OSError:
                continue  # the device's queue is full: lost, as on any router


def main() -> None:
    """Set devices up, say so, and forward."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", action="append", required=True, help="NAME,ADDRESS,NAMESPACE")
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--loss", type=float, required=True)
    arguments = parser.parse_args()
    hosts: dict[bytes, int] = {}
    for text in arguments.host:
        name, address, namespace = text.split(",")
        packed = bytes(int(part) for part in address.split("."))
        hosts[packed] = attach(name, address, namespace)
    sys.stdout.write('{"event": "ready"}\n')
    sys.stdout.flush()
    forward(hosts, delay_s=arguments.delay_ms / 1000, loss=arguments.loss)


if __name__ == "__main__":
    main()
