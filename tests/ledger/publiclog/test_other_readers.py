"""Somebody else's program (tlog-scales) reads our log, over HTTP and from the folder, unchanged."""

import random
from pathlib import Path

import pytest
from public_logs import LogMaker, serve_folder, vkey
from tlog_scales import signing, tiles
from tlog_scales.backend import HttpBackend, LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.tlog import InclusionProofInvalid

from ledger.evidence.note import parse_note
from ledger.evidence.tile_proofs import TileReader
from ledger.evidence.tlog_proof import TlogProof, format_tlog_proof
from ledger.publiclog.source import FolderSource


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogMaker, Path, int]:
    """A log of two epochs, with all three levels of tiles; and the first one's size."""
    folder = tmp_path_factory.mktemp("log")
    made = LogMaker().close(700)
    size = len(made.leaves)
    made.write(folder)
    made.close(65_000, payouts=3).write(folder, old_size=size)
    return made, folder, size


def test_checkpoint_root_and_leaves_are_read(log) -> None:
    made, folder, _ = log
    with serve_folder(folder) as (url, _):
        backend = HttpBackend(url)
        reader = TilesReader(backend)
        checkpoint = reader.get_checkpoint()
        checkpoint.verify(signing.Vkey.from_string(vkey()))
        reader.set_size(checkpoint.size)
        assert checkpoint.size == len(made.leaves) > 65_536
        assert reader.calculate_root_hash() == checkpoint.root_hash
        for index in [0, 255, 256, 65_535, 65_536, checkpoint.size - 1]:
            assert reader.get_entry(index) == made.leaves[index]
        backend.session.close()


def test_proofs_are_the_same_and_verify_there(log) -> None:
    made, folder, old_size = log
    reader = TilesReader(LocalBackend(folder))
    checkpoint = reader.get_checkpoint()
    reader.set_size(checkpoint.size)
    ours = TileReader(checkpoint.size, FolderSource(folder).read)
    chosen = random.Random(7)
    for index in [0, checkpoint.size - 1, *chosen.sample(range(checkpoint.size), 30)]:
        theirs = reader.get_inclusion_proof(index, checkpoint.size)
        assert theirs.node_hashes == ours.prove_inclusion(index)
        theirs.check(tiles.leaf_hash(made.leaves[index]), checkpoint.root_hash)
    for size in [1, old_size, *chosen.sample(range(checkpoint.size), 10)]:
        proof = reader.get_consistency_proof(size, checkpoint.size)
        assert proof.node_hashes == ours.prove_consistency(size)
        proof.check(ours.root(size), checkpoint.root_hash)


def test_a_tlog_proof_is_what_their_tool_prints(log, capsys) -> None:
    from argparse import Namespace

    from tlog_scales.cli import cmd_gen_proof

    made, folder, _ = log
    cmd_gen_proof(Namespace(location=str(folder), leaf_index=12_345))
    ours = TileReader(len(made.leaves), FolderSource(folder).read)
    proof = TlogProof(
        leaf_index=12_345,
        hashes=tuple(ours.prove_inclusion(12_345)),
        note=parse_note((folder / "checkpoint").read_bytes()),
    )
    assert capsys.readouterr().out == format_tlog_proof(proof).decode()


def test_a_changed_leaf_and_a_strangers_signature_are_refused_there(log) -> None:
    made, folder, _ = log
    reader = TilesReader(LocalBackend(folder))
    checkpoint = reader.get_checkpoint()
    reader.set_size(checkpoint.size)
    proof = reader.get_inclusion_proof(5, checkpoint.size)
    proof.check(tiles.leaf_hash(made.leaves[5]), checkpoint.root_hash)
    with pytest.raises(InclusionProofInvalid):
        proof.check(tiles.leaf_hash(made.leaves[5] + b"?"), checkpoint.root_hash)
    with pytest.raises(RuntimeError, match="no signature"):
        checkpoint.verify(signing.Vkey.from_string(vkey("thief")))
