"""The same deliveries as the CDNs of all shipped formats would log them, for tests."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote

from ledger.cdnlogs.contents import Contents
from ledger.cdnlogs.field_map import load_field_map
from ledger.cdnlogs.reading import Job, read_log
from ledger.cdnlogs.rows import Counters, Outcome
from ledger.cdnlogs.tally import GroupKey, GroupTotals, Tally

HOST = "cdn.example"
CONTENT = bytes(range(32))
CONTENTS = Contents.of({"/film/": CONTENT})
AT_MS = 1_767_225_600_000 + 3_600_000  # 2026-01-01 01:00 UTC


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a CDN really did."""

    request_id: str
    path: str = "/film/1.ts"
    at_ms: int = AT_MS
    status: int = 206
    body: int = 1000
    headers: int = 300
    length: int | None = None
    sid: str = "6e2fb550-c457-11e9-bb97-0800200c9a66"
    method: str = "GET"
    host: str = HOST
    whole: bool = True
    midgress: bool = False

    @property
    def total(self) -> int:
        return self.body + self.headers

    @property
    def query(self) -> str:
        return "CMCD=" + quote(f'br=3200,sid="{self.sid}"', safe="") if self.sid else ""


def _when(delivery: Delivery) -> datetime:
    return datetime.fromtimestamp(delivery.at_ms // 1000, UTC)


CLOUDFRONT_COLUMNS = """
date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer)
cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header
cs-protocol cs-bytes time-taken x-forwarded-for ssl-protocol ssl-cipher x-edge-response-
result-type cs-protocol-version fle-status fle-encrypted-fields c-port time-to-first-byte
x-edge-detailed-result-type sc-content-type sc-content-len sc-range-start sc-range-end
"""
CLOUDFRONT_FIELDS = CLOUDFRONT_COLUMNS.split()
CLOUDFRONT_HEADER = f"#Version: 1.0\n#Fields: {' '.join(CLOUDFRONT_FIELDS)}\n"


def cloudfront_line(delivery: Delivery) -> str:
    when = _when(delivery)
    values = dict.fromkeys(CLOUDFRONT_FIELDS, "-")
    values |= {
        "date": f"{when:%Y-%m-%d}",
        "time": f"{when:%H:%M:%S}",
        "sc-bytes": str(delivery.total),
        "cs-method": delivery.method,
        "cs-uri-stem": delivery.path,
        "sc-status": f"{delivery.status:03d}",
        # The log escapes what is escaped already.
        "cs-uri-query": quote(delivery.query, safe="=") or "-",
        "x-edge-request-id": delivery.request_id,
        "x-host-header": delivery.host,
        "x-edge-detailed-result-type": "Hit" if delivery.whole else "ClientCommError",
        "sc-content-len": str(delivery.body if delivery.length is None else delivery.length),
    }
    return "\t".join(values.values()) + "\n"


def cloudflare_line(delivery: Delivery, time_format: str = "rfc3339") -> str:
    when = _when(delivery)
    times: dict[str, object] = {
        "rfc3339": f"{when:%Y-%m-%dT%H:%M:%SZ}",
        "unix": delivery.at_ms // 1000,
        "unixnano": delivery.at_ms * 10**6,
    }
    return (
        json.dumps(
            {
                "ClientRequestHost": delivery.host,
                "ClientRequestMethod": delivery.method,
                "ClientRequestURI": f"{delivery.path}?{delivery.query}",
                "EdgeEndTimestamp": times[time_format],
                "EdgeResponseBodyBytes": delivery.body,
                "EdgeResponseBytes": delivery.total,
                "EdgeResponseStatus": delivery.status,
                "ParentRayID": "7b0" if delivery.midgress else "00",
                "RayID": delivery.request_id,
            }
        )
        + "\n"
    )


def nginx_line(delivery: Delivery) -> str:
    when = _when(delivery)
    target = f"{delivery.path}?{delivery.query}" if delivery.query else delivery.path
    return (
        f"192.0.2.1 - - [{when:%d/%b/%Y:%H:%M:%S +0000}] "
        f'"{delivery.method} {target} HTTP/1.1" {delivery.status} {delivery.body} "-" '
        f'"player \\x22x\\x22" {delivery.request_id} {delivery.total} '
        f'"{"OK" if delivery.whole else ""}" {delivery.host}\n'
    )


def fastly_line(delivery: Delivery) -> str:
    return (
        json.dumps(
            {
                "request_id": delivery.request_id,
                "end": str(delivery.at_ms),
                "host": delivery.host,
                "url": f"{delivery.path}?{delivery.query}",
                "method": delivery.method,
                "status": str(delivery.status),
                "body_bytes": str(delivery.body),
                "total_bytes": str(delivery.total),
                "completed": "1" if delivery.whole else "0",
                "is_edge": "0" if delivery.midgress else "1",
            }
        )
        + "\n"
    )


def akamai_line(delivery: Delivery) -> str:
    seconds, milliseconds = divmod(delivery.at_ms, 1000)
    return (
        json.dumps(
            {
                "reqId": delivery.request_id,
                "reqTimeSec": f"{seconds}.{milliseconds:03d}",
                "reqHost": delivery.host,
                "reqPath": delivery.path,
                "reqMethod": delivery.method,
                "statusCode": str(delivery.status),
                "bytes": str(delivery.body),
                "totalBytes": str(delivery.total),
                "rspContentLen": str(delivery.body if delivery.length is None else delivery.length),
                "cmcd": quote(f'sid="{delivery.sid}"', safe=""),
                "isMidgress": "1" if delivery.midgress else "0",
            }
        )
        + "\n"
    )


def bunny_line(delivery: Delivery) -> str:
    url = f"https://{delivery.host}{delivery.path}?{delivery.query}"
    return (
        f"HIT|{delivery.status}|{delivery.at_ms}|{delivery.total}|390|192.0.2.0|-|{url}|WA|"
        f"player|{delivery.request_id}|DE\n"
    )


W3C_HEADER = (
    "#Version: 1.0\n#Fields: date time x-request-id cs-method cs-host cs-uri-stem cs-uri-query "
    "sc-status sc-bytes sc-entity-bytes\n"
)


def w3c_line(delivery: Delivery) -> str:
    when = _when(delivery)
    return (
        f"{when:%Y-%m-%d %H:%M:%S} {delivery.request_id} {delivery.method} {delivery.host} "
        f"{delivery.path} {delivery.query or '-'} {delivery.status} {delivery.total} "
        f"{delivery.body}\n"
    )


FORMATS = {
    "akamai-datastream2": ("", akamai_line),
    "bunny": ("", bunny_line),
    "cloudflare": ("", cloudflare_line),
    "cloudfront": (CLOUDFRONT_HEADER, cloudfront_line),
    "fastly": ("", fastly_line),
    "nginx": ("", nginx_line),
    "w3c": (W3C_HEADER, w3c_line),
}
STATES_BODY = {"akamai-datastream2", "cloudflare", "fastly", "nginx", "w3c"}


def job_of(name: str, **changes: object) -> Job:
    return Job(field_map=load_field_map(name), **changes)  # type: ignore[arg-type]


def write_log(name: str, deliveries: list[Delivery]) -> bytes:
    header, write = FORMATS[name]
    return (header + "".join(write(delivery) for delivery in deliveries)).encode()


def outcomes_of(name: str, data: bytes, **changes: object) -> list[Outcome]:
    return list(read_log([data], job_of(name, **changes)))


def tally_of(
    name: str, *files: bytes, closed_through_day: int = -1
) -> tuple[dict[GroupKey, GroupTotals], Counters]:
    tally = Tally(contents=CONTENTS, closed_through_day=closed_through_day)
    job = job_of(name)
    for number, data in enumerate(files):
        tally.add(f"file {number}", read_log([data], job))
    return tally.finish()


def changed(delivery: Delivery, **changes: object) -> Delivery:
    return replace(delivery, **changes)  # type: ignore[arg-type]
