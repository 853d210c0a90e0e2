"""The Merkle tree of RFC 6962 as pure functions: hashes, roots, proofs.

Layout (RFC 6962 §2.1), all hashes SHA-256, 32 bytes:

    leaf hash  = SHA-256(0x00 ‖ leaf)
    node hash  = SHA-256(0x01 ‖ left ‖ right)
    empty root = SHA-256 of nothing

A tree of n leaves, n > 1, splits at the largest power of two below n. Proofs are lists of hashes,
leaf to root. This module knows no files, no signatures and no meaning of a leaf: tiles are in
`tile`, tree heads in `checkpoint`. Test vectors: those of Certificate Transparency, in
tests/ledger/evidence/test_merkle.py.
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Self

from ledger.evidence.errors import ConsistencyError, InclusionError, MalformedRecordError

HASH_BYTES = 32
"""Length of every hash here."""

TREE_SIZE_LIMIT = 2**63
"""Trees have fewer leaves than this, so a size fits a signed 64-bit column."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 6962 §2.1)."""

_SIZE = struct.Struct("<Q")


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two child hashes into their parent's (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Iterable[bytes]) -> bytes:
    """Root of the tree over `leaves` (the leaf bytes, not their hashes), in their order."""
    sha256 = hashlib.sha256
    return _root_of_level([sha256(b"\x00" + leaf).digest() for leaf in leaves])


def root_of_hashes(leaf_hashes: Iterable[bytes]) -> bytes:
    """Root of the tree over leaves whose `leaf_hash` values are given, in their order.

    Raises:
        ValueError: a hash is not 32 bytes.
    """
    level = list(leaf_hashes)
    for value in level:
        _require_hash("leaf hash", value)
    return _root_of_level(level)


def _root_of_level(level: list[bytes]) -> bytes:
    """Root over a row of hashes: pairing neighbours and carrying an odd last one up.

    That is the tree of RFC 6962 §2.1, a row at a time: a third of the time of adding one leaf after
    another, for the memory of all their hashes.
    """
    sha256 = hashlib.sha256
    while len(level) > 1:
        above = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0] if level else EMPTY_ROOT


class RootBuilder:
    """Root of a growing tree in O(log n) memory, without the leaves.

    It keeps one hash per full subtree, left to right, that is one per set bit of the size. A
    receipt's root over credited blocks grows this way and is journalled with `export_state`.
    """

    __slots__ = ("_size", "_subtrees")

    def __init__(self) -> None:
        self._size = 0
        self._subtrees: list[bytes] = []

    @property
    def size(self) -> int:
        """Leaves appended so far."""
        return self._size

    @property
    def subtrees(self) -> tuple[bytes, ...]:
        """Root hashes of the full subtrees, largest (leftmost) first."""
        return tuple(self._subtrees)

    def append(self, leaf: bytes) -> None:
        """Append the leaf with these bytes."""
        self.append_hash(leaf_hash(leaf))

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append many leaves, in their order; the same as `append` for each, in less time.

        Raises:
            ValueError: the tree would be full; nothing was appended.
        """
        if self._size + len(leaves) >= TREE_SIZE_LIMIT:
            raise ValueError(f"tree size: got {self._size + len(leaves)}, want below 2**63")
        sha256, subtrees, size = hashlib.sha256, self._subtrees, self._size
        for leaf in leaves:
            value = sha256(b"\x00" + leaf).digest()
            size += 1
            rest = size
            while rest & 1 == 0:
                value = sha256(b"\x01" + subtrees.pop() + value).digest()
                rest >>= 1
            subtrees.append(value)
        self._size = size

    def append_hash(self, value: bytes) -> None:
        """Append the leaf that has this leaf hash.

        Raises:
            ValueError: the hash is not 32 bytes, or the tree is full.
        """
        _require_hash("leaf hash", value)
        if self._size + 1 >= TREE_SIZE_LIMIT:
            raise ValueError(f"tree size: got {self._size + 1}, want below 2**63")
        self._size += 1
        # Each trailing zero bit of the new size is a pair of equal subtrees that became one.
        rest = self._size
        while rest & 1 == 0:
            value = node_hash(self._subtrees.pop(), value)
            rest >>= 1
        self._subtrees.append(value)

    def root(self) -> bytes:
        """Root of the tree over everything appended so far; the builder stays usable."""
        return fold_subtrees(self._subtrees)

    def export_state(self) -> bytes:
        """Print the state: size (u64 little-endian), then the subtree hashes, largest first."""
        return _SIZE.pack(self._size) + b"".join(self._subtrees)

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """Builder that continues where `export_state` was called.

        Raises:
            MalformedRecordError: the length does not fit the size stated in it.
        """
        if len(state) < _SIZE.size:
            raise MalformedRecordError("root_state", got=len(state), want="at least 8 bytes")
        (size,) = _SIZE.unpack_from(state)
        if size >= TREE_SIZE_LIMIT:
            raise MalformedRecordError("root_state.size", got=size, want="below 2**63")
        expected = _SIZE.size + HASH_BYTES * size.bit_count()
        if len(state) != expected:
            raise MalformedRecordError(
                "root_state", got=len(state), want=f"{expected} bytes for size {size}"
            )
        builder = cls()
        builder._size = size
        builder._subtrees = _split_hashes(state[_SIZE.size :])
        return builder


def fold_subtrees(subtrees: Sequence[bytes]) -> bytes:
    """Root of a tree from the roots of its full subtrees, largest first; none: `EMPTY_ROOT`."""
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


class ProvingTree(ABC):
    """A tree that finds the hash of any of its full subtrees, so any root or proof in O(log² n).

    Where the hashes lie is the subclass's: `HashTree` holds them, `tile_proofs.TileReader` reads
    them from a log's files, and what its reading raises, the methods here raise too.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def size(self) -> int:
        """Leaves in the tree."""

    @abstractmethod
    def _full_hash(self, height: int, place: int) -> bytes:
        """Hash of the full subtree of 2**height leaves at this place, counted in such subtrees."""

    def root(self, tree_size: int | None = None) -> bytes:
        """Root of the first `tree_size` leaves; all of them when None.

        Raises:
            ValueError: the tree has fewer leaves.
        """
        size = self._require_size(tree_size)
        return self._range_hash(0, size) if size else EMPTY_ROOT

    def prove_inclusion(self, leaf_index: int, tree_size: int | None = None) -> list[bytes]:
        """Proof that leaf `leaf_index` is in the tree of `tree_size` leaves (RFC 6962 §2.1.1).

        Raises:
            ValueError: not `0 <= leaf_index < tree_size <= size`.
        """
        size = self._require_size(tree_size)
        if not 0 <= leaf_index < size:
            raise ValueError(f"leaf_index: got {leaf_index}, want 0 <= leaf_index < {size}")
        proof: list[bytes] = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + largest_power_of_two_below(end - begin)
            if leaf_index < middle:
                proof.append(self._range_hash(middle, end))
                end = middle
            else:
                proof.append(self._range_hash(begin, middle))
                begin = middle
        proof.reverse()
        return proof

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """Proof that the tree of `old_size` leaves is a prefix of that of `new_size`.

        RFC 6962 §2.1.2. Empty when the sizes are equal or the old tree is empty.

        Raises:
            ValueError: not `0 <= old_size <= new_size <= size`.
        """
        size = self._require_size(new_size)
        if not 0 <= old_size <= size:
            raise ValueError(f"old_size: got {old_size}, want 0 <= old_size <= {size}")
        if old_size in {0, size}:
            return []
        proof: list[bytes] = []
        begin, end = 0, size
        # Walk to the subtree that ends where the old tree ends; what lies beside the walk is
        # the proof. `begin` moves only when the old tree holds the whole left half.
        while end != old_size:
            middle = begin + largest_power_of_two_below(end - begin)
            if old_size <= middle:
                proof.append(self._range_hash(middle, end))
                end = middle
            else:
                proof.append(self._range_hash(begin, middle))
                begin = middle
        if begin != 0:
            # The old root is known to the verifier; any other last subtree is not.
            proof.append(self._range_hash(begin, end))
        proof.reverse()
        return proof

    def _require_size(self, tree_size: int | None) -> int:
        size = self.size if tree_size is None else tree_size
        if not 0 <= size <= self.size:
            raise ValueError(f"tree_size: got {size}, want 0 <= tree_size <= {self.size}")
        return size

    def _range_hash(self, begin: int, end: int) -> bytes:
        """Hash of leaves begin..end, where `begin` is a multiple of a power of two ≥ the length."""
        subtrees: list[bytes] = []
        while begin < end:
            height = (end - begin).bit_length() - 1
            subtrees.append(self._full_hash(height, begin >> height))
            begin += 1 << height
        return fold_subtrees(subtrees)


class HashTree(ProvingTree):
    """A tree with every full subtree's hash in memory.

    Memory is 64 bytes a leaf and Python's overhead. Whoever needs one root only takes
    `RootBuilder`; whoever hands out many proofs takes this.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for value in leaf_hashes:
            self.append_hash(value)

    @property
    def size(self) -> int:
        """Leaves in the tree."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Append the leaf with these bytes."""
        self.append_hash(leaf_hash(leaf))

    def append_hash(self, value: bytes) -> None:
        """Append the leaf that has this leaf hash.

        Raises:
            ValueError: the hash is not 32 bytes.
        """
        _require_hash("leaf hash", value)
        self._levels[0].append(value)
        height = 0
        while len(self._levels[height]) % 2 == 0:
            left, right = self._levels[height][-2:]
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(node_hash(left, right))

    def _full_hash(self, height: int, place: int) -> bytes:
        return self._levels[height][place]


def prove_inclusion(
    leaf_hashes: Sequence[bytes], leaf_index: int, tree_size: int | None = None
) -> list[bytes]:
    """Proof that leaf `leaf_index` is in the tree of the first `tree_size` leaves.

    It hashes the whole tree; for many proofs of one tree take `HashTree`.

    Raises:
        ValueError: not `0 <= leaf_index < tree_size <= len(leaf_hashes)`.
    """
    size = len(leaf_hashes) if tree_size is None else tree_size
    if not 0 <= size <= len(leaf_hashes):
        raise ValueError(f"tree_size: got {size}, want 0 <= tree_size <= {len(leaf_hashes)}")
    return HashTree(leaf_hashes[:size]).prove_inclusion(leaf_index)


def prove_consistency(
    leaf_hashes: Sequence[bytes], old_size: int, new_size: int | None = None
) -> list[bytes]:
    """Proof that the first `old_size` leaves are a prefix of the first `new_size`.

    Raises:
        ValueError: not `0 <= old_size <= new_size <= len(leaf_hashes)`.
    """
    size = len(leaf_hashes) if new_size is None else new_size
    if not 0 <= size <= len(leaf_hashes):
        raise ValueError(f"new_size: got {size}, want 0 <= new_size <= {len(leaf_hashes)}")
    return HashTree(leaf_hashes[:size]).prove_consistency(old_size)


def check_inclusion(
    leaf_hash_value: bytes, leaf_index: int, tree_size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf with this hash stands at `leaf_index` of the tree with this root.

    Raises:
        InclusionError: anything else, including a proof of another length than the position asks.
    """
    if not 0 <= leaf_index < tree_size < TREE_SIZE_LIMIT:
        raise InclusionError(
            f"leaf_index: got {leaf_index}, want 0 <= leaf_index < tree_size {tree_size} < 2**63"
        )
    sides = sibling_sides(leaf_index, tree_size)
    if len(proof) != len(sides):
        raise InclusionError(
            f"inclusion proof of leaf {leaf_index} in {tree_size}: "
            f"got {len(proof)} hashes, want {len(sides)}"
        )
    if not _all_hashes(leaf_hash_value, root, *proof):
        raise InclusionError("inclusion proof: got a hash of another length, want 32 bytes each")
    value = leaf_hash_value
    for sibling, sibling_is_right in zip(proof, sides, strict=True):
        value = node_hash(value, sibling) if sibling_is_right else node_hash(sibling, value)
    if value != root:
        raise InclusionError(
            f"root for leaf {leaf_index} in {tree_size}: got {value.hex()}, want {root.hex()}"
        )


def check_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree (`old_size`, `old_root`) is a prefix of (`new_size`, `new_root`).

    The empty tree is a prefix of every tree and needs an empty proof; so do equal sizes.

    Raises:
        ConsistencyError: anything else.
    """
    if not 0 <= old_size <= new_size < TREE_SIZE_LIMIT:
        raise ConsistencyError(
            f"sizes: got {old_size} and {new_size}, want 0 <= old_size <= new_size < 2**63"
        )
    if not _all_hashes(old_root, new_root, *proof):
        raise ConsistencyError(
            "consistency proof: got a hash of another length, want 32 bytes each"
        )
    for size, root in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and root != EMPTY_ROOT:
            raise ConsistencyError(f"root of size 0: got {root.hex()}, want {EMPTY_ROOT.hex()}")
    if old_size in {0, new_size}:
        if proof:
            raise ConsistencyError(
                f"consistency proof from {old_size} to {new_size}: "
                f"got {len(proof)} hashes, want none"
            )
        if old_size == new_size and old_root != new_root:
            raise ConsistencyError(
                f"root of size {new_size}: got {new_root.hex()}, want {old_root.hex()}"
            )
        return
    found_old, found_new = _fold_consistency(old_size, old_root, new_size, proof)
    if found_old != old_root:
        raise ConsistencyError(f"old root: got {found_old.hex()}, want {old_root.hex()}")
    if found_new != new_root:
        raise ConsistencyError(f"new root: got {found_new.hex()}, want {new_root.hex()}")


def _fold_consistency(
    old_size: int, old_root: bytes, new_size: int, proof: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Old and new root that the proof leads to, 0 < old_size < new_size (RFC 9162 §2.1.4.2)."""
    hashes = list(proof)
    if old_size.bit_count() == 1:
        hashes.insert(0, old_root)
    if not hashes:
        raise ConsistencyError("consistency proof: got no hashes, want at least one")
    old_node, new_node = old_size - 1, new_size - 1
    while old_node & 1:
        old_node >>= 1
        new_node >>= 1
    found_old = found_new = hashes[0]
    for value in hashes[1:]:
        if new_node == 0:
            raise ConsistencyError(f"consistency proof: got {len(proof)} hashes, want fewer")
        if old_node & 1 or old_node == new_node:
            found_old = node_hash(value, found_old)
            found_new = node_hash(value, found_new)
            while old_node & 1 == 0 and old_node:
                old_node >>= 1
                new_node >>= 1
        else:
            found_new = node_hash(found_new, value)
        old_node >>= 1
        new_node >>= 1
    if new_node != 0:
        raise ConsistencyError(f"consistency proof: got {len(proof)} hashes, want more")
    return found_old, found_new


def sibling_sides(leaf_index: int, tree_size: int) -> list[bool]:
    """For each step from the leaf to the root: does the sibling stand on the right?

    The length of the answer is the length of an inclusion proof.

    Raises:
        ValueError: not `0 <= leaf_index < tree_size`.
    """
    if not 0 <= leaf_index < tree_size:
        raise ValueError(f"leaf_index: got {leaf_index}, want 0 <= leaf_index < {tree_size}")
    sides: list[bool] = []
    begin, end = 0, tree_size
    while end - begin > 1:
        middle = begin + largest_power_of_two_below(end - begin)
        sibling_is_right = leaf_index < middle
        sides.append(sibling_is_right)
        if sibling_is_right:
            end = middle
        else:
            begin = middle
    sides.reverse()
    return sides


def largest_power_of_two_below(size: int) -> int:
    """Where a tree of `size` ≥ 2 leaves splits: the k of RFC 6962 §2.1, k < size ≤ 2k."""
    return 1 << ((size - 1).bit_length() - 1)


def _all_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_BYTES for value in values)


def _require_hash(name: str, value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise ValueError(f"{name}: got {len(value)} bytes, want {HASH_BYTES}")


def _split_hashes(content: bytes) -> list[bytes]:
    return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]
