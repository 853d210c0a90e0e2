"""Frames and short records of the side channel: one spelling, and nothing else is read."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_plugin.channel_keys import SEAL_SIZE
from engine_plugin.wire import (
    ACKNOWLEDGEMENT_STEP,
    FRAMES,
    AcknowledgementStep,
    ConnectionPorts,
    FrameReader,
    format_acknowledgement,
    format_connections,
    format_frame,
    parse_connections,
)
from ledger.evidence.encoding import RecordCode
from ledger.evidence.errors import MalformedRecordError

PORTS = st.builds(ConnectionPorts, st.integers(1, 65_535), st.integers(1, 65_535))


def read(data: bytes) -> tuple[RecordCode, bytes, bytes]:
    async def run() -> tuple[RecordCode, bytes, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        frames = FrameReader(reader, SEAL_SIZE)
        code, record, seal, size = await frames.read(1)
        assert size == len(data)
        with pytest.raises(asyncio.IncompleteReadError):
            await frames.read(1)
        return code, record, seal

    return asyncio.run(run())


@given(code=st.sampled_from(sorted(FRAMES)), data=st.data())
def test_frame_is_read_as_it_was_written(code: RecordCode, data: st.DataObject) -> None:
    kind = FRAMES[code]
    size = data.draw(st.integers(kind.least, min(kind.most, kind.least + 50)))
    record = data.draw(st.binary(min_size=size, max_size=size))
    seal = b"s" * SEAL_SIZE if kind.is_sealed else b""
    assert read(format_frame(code, record, seal)) == (code, record, seal)


@given(data=st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        read(data)
    except (MalformedRecordError, EOFError, AssertionError):
        return


@pytest.mark.parametrize("code", sorted(FRAMES))
def test_record_of_another_length_is_not_written(code: RecordCode) -> None:
    kind = FRAMES[code]
    for size in (kind.least - 1, kind.most + 1):
        with pytest.raises(ValueError, match="frame"):
            format_frame(code, bytes(max(0, size)) if size >= 0 else b"")


@given(ports=st.lists(PORTS, min_size=1, max_size=256))
def test_claims_are_read_as_they_were_written(ports: list[ConnectionPorts]) -> None:
    assert parse_connections(format_connections(ports)) == ports


@given(record=st.binary(max_size=64))
def test_any_claims_print_back_or_are_refused(record: bytes) -> None:
    try:
        ports = parse_connections(record)
    except MalformedRecordError:
        return
    assert format_connections(ports) == record


@given(outstanding=st.integers(-(1 << 40), 1 << 50))
def test_what_is_outstanding_is_told_in_blocks_and_never_too_much(outstanding: int) -> None:
    record = format_acknowledgement(bytes(32), 0, outstanding)
    answer = AcknowledgementStep(**ACKNOWLEDGEMENT_STEP.unpack(record))
    told = answer.unacknowledged_blocks << 14
    assert told <= max(outstanding, 0)
    assert told == min(max(outstanding, 0) >> 14, 0xFFFF) << 14
