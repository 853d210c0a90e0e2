"""Statements over CDN lines in sets: merge, quarantine, add up, fold.

Used by `cdn_store` only, which says what each is for; the sums' columns are those of
`ledger.cdnlogs.tally.GroupTotals`, in its order.
"""

from typing import Final

from ledger.cdnlogs.tally import GroupTotals

SUM_COLUMNS: Final = tuple(GroupTotals.__slots__)


def _whole(*parts: str) -> str:
    return "".join(parts)


def _all_of(*selects: str) -> str:
    return "UNION ALL".join(selects)


CREATE_STAGED: Final = """
CREATE TEMPORARY TABLE cdn_staged (
  request_key bytea, line_digest bytea, day bigint, content_id bytea, session_id bytea,
  body_bytes bigint, total_bytes bigint, header_bytes bigint, payload_bytes bigint,
  has_body boolean, has_total boolean, is_aborted boolean, is_late boolean
) ON COMMIT DROP
"""

COPY_STAGED: Final = "COPY cdn_staged FROM STDIN (FORMAT BINARY)"

# Equal lines under one id differ in nothing, so any of them stands for all.
MERGE_LINES: Final = """
INSERT INTO cdn_lines AS known (
  source_id, copies,
  request_key, line_digest, day, content_id, session_id, body_bytes, total_bytes, header_bytes,
  payload_bytes, has_body, has_total, is_aborted, is_late
)
SELECT DISTINCT ON (request_key, line_digest)
  :source, count(*) OVER (PARTITION BY request_key, line_digest),
  request_key, line_digest, day, content_id, session_id, body_bytes, total_bytes, header_bytes,
  payload_bytes, has_body, has_total, is_aborted, is_late
FROM cdn_staged WHERE request_key IS NOT NULL
ORDER BY request_key, line_digest
ON CONFLICT (source_id, request_key, line_digest)
DO UPDATE SET copies = known.copies + excluded.copies
"""

MARK_CONFLICTS: Final = """
UPDATE cdn_lines SET is_conflict = true
WHERE source_id = :source AND NOT is_conflict
  AND request_key IN (SELECT request_key FROM cdn_staged WHERE request_key IS NOT NULL)
  AND EXISTS (
    SELECT 1 FROM cdn_lines AS other
    WHERE other.source_id = cdn_lines.source_id AND other.request_key = cdn_lines.request_key
      AND other.line_digest <> cdn_lines.line_digest
  )
"""

_INTO_TOTALS: Final = """
INSERT INTO cdn_totals AS known (
  source_id, content_id, session_id, day,
  lines, body_bytes, body_lines, total_bytes, total_lines, header_bytes, payload_bytes,
  aborted_lines, aborted_bytes, late_lines, late_bytes, late_total_bytes, duplicate_lines,
  duplicate_bytes, conflict_lines, conflict_bytes
)
"""

_ADDED: Final = """
ON CONFLICT (source_id, content_id, session_id, day) DO UPDATE SET
  lines = known.lines + excluded.lines,
  body_bytes = known.body_bytes + excluded.body_bytes,
  body_lines = known.body_lines + excluded.body_lines,
  total_bytes = known.total_bytes + excluded.total_bytes,
  total_lines = known.total_lines + excluded.total_lines,
  header_bytes = known.header_bytes + excluded.header_bytes,
  payload_bytes = known.payload_bytes + excluded.payload_bytes,
  aborted_lines = known.aborted_lines + excluded.aborted_lines,
  aborted_bytes = known.aborted_bytes + excluded.aborted_bytes,
  late_lines = known.late_lines + excluded.late_lines,
  late_bytes = known.late_bytes + excluded.late_bytes,
  late_total_bytes = known.late_total_bytes + excluded.late_total_bytes,
  duplicate_lines = known.duplicate_lines + excluded.duplicate_lines,
  duplicate_bytes = known.duplicate_bytes + excluded.duplicate_bytes,
  conflict_lines = known.conflict_lines + excluded.conflict_lines,
  conflict_bytes = known.conflict_bytes + excluded.conflict_bytes
"""

_KEYLESS: Final = """
SELECT :source, content_id, session_id, day,
  count(*), sum(body_bytes), sum(has_body::int), sum(total_bytes), sum(has_total::int),
  sum(header_bytes), sum(payload_bytes), sum(is_aborted::int),
  coalesce(sum(payload_bytes) FILTER (WHERE is_aborted), 0), sum(is_late::int),
  coalesce(sum(payload_bytes) FILTER (WHERE is_late), 0),
  coalesce(sum(total_bytes) FILTER (WHERE is_late), 0),
  0, 0, 0, 0
FROM cdn_staged WHERE request_key IS NULL
GROUP BY content_id, session_id, day
"""

MERGE_KEYLESS: Final = _whole(_INTO_TOTALS, _KEYLESS, _ADDED)

_COUNTED: Final = """
SELECT content_id, session_id, day,
  count(*), sum(body_bytes), sum(has_body::int), sum(total_bytes), sum(has_total::int),
  sum(header_bytes), sum(payload_bytes), sum(is_aborted::int),
  coalesce(sum(payload_bytes) FILTER (WHERE is_aborted), 0), sum(is_late::int),
  coalesce(sum(payload_bytes) FILTER (WHERE is_late), 0),
  coalesce(sum(total_bytes) FILTER (WHERE is_late), 0),
  sum(copies - 1), sum((copies - 1) * payload_bytes), 0, 0
FROM cdn_lines
WHERE source_id = :source AND NOT is_conflict AND day BETWEEN :first AND :last
GROUP BY content_id, session_id, day
"""

# A request id in conflict stands in the group of the line that states least.
_IN_CONFLICT: Final = """
SELECT content_id, session_id, day,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  sum(all_copies), sum(payload_bytes)
FROM (
  SELECT DISTINCT ON (request_key) content_id, session_id, day, payload_bytes,
    sum(copies) OVER (PARTITION BY request_key) AS all_copies
  FROM cdn_lines WHERE source_id = :source AND is_conflict
  ORDER BY request_key, payload_bytes, line_digest
) AS least
WHERE day BETWEEN :first AND :last
GROUP BY content_id, session_id, day
"""

_TOTALS: Final = """
SELECT content_id, session_id, day,
  lines, body_bytes, body_lines, total_bytes, total_lines, header_bytes, payload_bytes,
  aborted_lines, aborted_bytes, late_lines, late_bytes, late_total_bytes, duplicate_lines,
  duplicate_bytes, conflict_lines, conflict_bytes
FROM cdn_totals WHERE source_id = :source AND day BETWEEN :first AND :last
"""

GROUPS: Final = _all_of(_COUNTED, _IN_CONFLICT, _TOTALS)

_FOLDED: Final = """
SELECT :source, content_id, session_id, day,
  sum(lines), sum(body_bytes), sum(body_lines), sum(total_bytes), sum(total_lines),
  sum(header_bytes), sum(payload_bytes), sum(aborted_lines), sum(aborted_bytes),
  sum(late_lines), sum(late_bytes), sum(late_total_bytes), sum(duplicate_lines),
  sum(duplicate_bytes), sum(conflict_lines), sum(conflict_bytes)
FROM (
"""

_GROUPED: Final = """
) AS groups (
  content_id, session_id, day,
  lines, body_bytes, body_lines, total_bytes, total_lines, header_bytes, payload_bytes,
  aborted_lines, aborted_bytes, late_lines, late_bytes, late_total_bytes, duplicate_lines,
  duplicate_bytes, conflict_lines, conflict_bytes
)
GROUP BY content_id, session_id, day
"""

FOLD_LINES: Final = _whole(_INTO_TOTALS, _FOLDED, _all_of(_COUNTED, _IN_CONFLICT), _GROUPED, _ADDED)

# A request id in conflict goes with the day that it stands in, all its lines together.
DELETE_FOLDED: Final = """
DELETE FROM cdn_lines WHERE source_id = :source AND (
  (NOT is_conflict AND day <= :last)
  OR (is_conflict AND request_key IN (
    SELECT request_key FROM (
      SELECT DISTINCT ON (request_key) request_key, day FROM cdn_lines
      WHERE source_id = :source AND is_conflict
      ORDER BY request_key, payload_bytes, line_digest
    ) AS least
    WHERE day <= :last
  ))
)
"""

COUNT_LINES: Final = """
SELECT coalesce(sum(1) FILTER (WHERE NOT is_conflict AND NOT is_late), 0),
  coalesce(sum(1) FILTER (WHERE NOT is_conflict AND is_late), 0),
  coalesce(sum(copies - 1) FILTER (WHERE NOT is_conflict), 0),
  coalesce(sum(copies) FILTER (WHERE is_conflict), 0)
FROM cdn_lines WHERE source_id = :source
"""

COUNT_TOTALS: Final = """
SELECT coalesce(sum(lines - late_lines), 0), coalesce(sum(late_lines), 0),
  coalesce(sum(duplicate_lines), 0), coalesce(sum(conflict_lines), 0)
FROM cdn_totals WHERE source_id = :source
"""
