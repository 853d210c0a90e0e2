"""Fetches a torrent with metered, signed bytes: the engine as a library, in forty lines.

python docs/library_client.py FILM.torrent SAVE_FOLDER STATE_FOLDER PEER_IP:PORT
"""

import asyncio
import sys
from pathlib import Path

from engine_plugin.config import ContentOptions, EngineConfig, parse_endpoint
from engine_plugin.engine import Engine
from engine_plugin.torrents import read_torrent


async def fetch(torrent_path: Path, save_path: Path, state_path: Path, peer: str) -> None:
    """Fetch one torrent from one peer, print its first bytes as soon as they are here."""
    # With `terms=load_terms(path)` and `entitlement_url=…` every byte is receipted as well.
    config = EngineConfig(listen=parse_endpoint("127.0.0.1:0", "listen"), state_path=state_path)
    async with Engine(config) as engine:
        events = asyncio.create_task(print_events(engine))
        content = await engine.add(
            read_torrent(torrent_path.read_bytes()),
            ContentOptions(save_path=save_path, peers=[parse_endpoint(peer, "peer")]),
        )
        content.want_piece(0, 0)
        print("begins with", (await content.read_piece(0))[:16].hex())
        for piece in content.missing_pieces():
            await content.wait_for_piece(piece)
    await events
    print("bytes from peers:", content.bytes_by_source().p2p_bytes)


async def print_events(engine: Engine) -> None:
    """Print what the engine tells until it has stopped."""
    async for event in engine.events():
        if event.name in {"ready", "peer", "complete", "stopped"}:
            print(event.name, event.fields.get("bytes", ""))


if __name__ == "__main__":
    asyncio.run(fetch(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
