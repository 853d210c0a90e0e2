"""What the OpenAPI document says beside the routes' signatures: answers, refusals, media types.

The models are the JSON answers, field by field; an answer that is not of its model would be a
fault, and tests ask the document about every route. Not here: the routes.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

OCTETS: Final = "application/octet-stream"
Responses = dict[int | str, dict[str, Any]]

Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Account = Annotated[str, Field(pattern="^G[A-Z2-7]{55}$")]
Natural = Annotated[int, Field(ge=0)]


class Document(BaseModel):
    """Base of the JSON answers: nothing else than the fields, and all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RefusalDocument(Document):
    """Why a request was not done."""

    code: str = Field(description="Stable word; programs act on it.")
    detail: str = Field(description="For people.")
    field: str = Field(description="Where the fault is; may be empty.")
    got: str | int = Field(description="What stood there, shortened.")
    want: str = Field(description="What should.")


class ProblemDocument(RefusalDocument):
    """A refusal that is also an RFC 9457 problem of the resumable-upload draft."""

    type: str
    title: str
    expected_offset: Natural = Field(alias="expected-offset")
    provided_offset: Natural = Field(alias="provided-offset")


class BundleDocument(Document):
    """What became of a bundle."""

    digest: Hex32
    state: Literal[
        "received", "judged", "poison", "refused", "sealed", "computed", "settled", "sealing"
    ]
    sealing_epoch: Natural
    code: int | None = Field(description="Why it was refused whole; 0: it was not.")
    code_name: str | None
    codes: list[Natural] = Field(description="Per receipt, in the bundle's order; 0: counted.")
    code_names: list[str]


class RefusedItemDocument(Document):
    """A bundle or receipt that was refused for good."""

    id: Natural
    bundle_digest: Hex32
    epoch: Natural
    sealing_epoch: Natural
    place: int | None = Field(description="Place of the receipt; null: the whole bundle.")
    code: Natural
    code_name: str
    lane_digest: Hex32 | None
    sequence: int | None
    bytes_total: int | None
    field: str | None = Field(description="What disagrees; null for refusals of older versions.")
    got: str | None = Field(description="What it holds.")
    want: str | None = Field(description="What was wanted.")


class RefusalsDocument(Document):
    """What was refused of a submitter."""

    submitter_key: str
    refusals: list[RefusedItemDocument]


class InstructionDocument(Document):
    """What became of an instruction."""

    id: Natural
    digest: Hex32
    kind: Literal["payee_instruction", "refund", "readiness", "ruling"]
    subject: Hex32
    state: Literal["waiting", "sealed", "applied", "without_effect"]
    sealed_epoch: int | None
    code: int | None = Field(description="0: it has effect; null before its epoch is computed.")
    code_name: str | None


class InstructionsDocument(Document):
    """What was said about an account or transaction."""

    subject: Hex32
    instructions: list[InstructionDocument]


class EpochStateDocument(Document):
    """An epoch's number and state."""

    epoch: Natural
    state: Literal["open", "sealing", "sealed", "computed", "settled"]


class EpochsDocument(Document):
    """A page of epochs."""

    broadcaster: Account
    epochs: list[EpochStateDocument]


class CheckpointDocument(Document):
    """The signed tree head after an epoch."""

    tree_size: Natural
    root: Hex32
    anchor_memo_hash: Hex32


class SumTreeDocument(Document):
    """Root of an epoch's sum tree."""

    hash: Hex32
    bytes: Natural
    stroops: Natural


class EpochDocument(EpochStateDocument):
    """One epoch: state, roots, sizes, anchor; null: not yet."""

    opening_size: int | None
    sealed_size: int | None
    result_size: int | None
    last_ledger_sequence: int | None
    last_ledger_close_s: int | None
    checkpoint: CheckpointDocument | None
    anchor_tx: Hex32 | None
    sum_tree: SumTreeDocument | None
    is_published: bool
    audit_digest: Hex32 | None


class CoverageDocument(Document):
    """What the escrow holds against what it owes."""

    broadcaster: Account
    escrow_account: Account
    asset_code: str
    epoch: int | None
    held_stroops: int
    owed_stroops: int
    fees_stroops: int
    pending_bytes: int
    pending_stroops: int
    liable_stroops: int
    unspent_stroops: int
    refund_stroops: int = Field(description="Of it, asked back by the broadcaster or under way.")
    free_stroops: int = Field(
        description="Unspent, with deposits since, less refunds and what is pending."
    )
    level: Literal["covered", "low", "out"]
    ratio_ppm: int | None


class ContentTotalDocument(Document):
    """Bytes of one content by source."""

    content_id: Hex32
    p2p_bytes: int
    cdn_bytes: int


class EpochTotalsDocument(Document):
    """Totals of one epoch, provisional until it is sealed."""

    epoch: Natural
    state: Literal["open", "sealing", "sealed", "computed", "settled"]
    provisional: bool = Field(description="True: what parties say; false: what the seals count.")
    p2p_bytes: int
    cdn_bytes: int
    lanes: Natural
    reporters: int | None = Field(description="Parties whose reports are in it; null: sealed.")
    oldest_report_ms: int | None = Field(description="Ledger time of the oldest report in it.")
    newest_report_ms: int | None
    contents: list[ContentTotalDocument] | None = Field(
        description="Null without the token: a lone seeder's line would be its title's."
    )


class TotalsDocument(Document):
    """Totals of the newest epochs."""

    broadcaster: Account
    ledger_ms: Natural
    current_epoch: Natural
    epochs: list[EpochTotalsDocument]


class StatusDocument(Document):
    """One word."""

    status: str


_WORDS: Final = {
    400: "Malformed, a bad parameter, or not signed.",
    401: "The token is not the one.",
    403: "Not now, or not by this key.",
    404: "There is no such thing here.",
    405: "No such method; `Allow` names those there are.",
    408: "The body came too slowly.",
    409: "In conflict with what is here.",
    413: "Too large.",
    415: "Wrong media type.",
    422: "Understood, and not acceptable: too early, too late.",
    429: "Too much of this sender; again after `Retry-After` seconds.",
    503: "Too much waits, or a part is away; again after `Retry-After` seconds.",
}
_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Seconds.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}
UPLOAD_HEADERS: Final[dict[str, Any]] = {
    "Upload-Offset": {"schema": {"type": "integer", "minimum": 0}, "required": True},
    "Upload-Length": {"schema": {"type": "integer", "minimum": 1}, "required": True},
    "Upload-Complete": {"schema": {"enum": ["?0", "?1"]}, "required": True},
    "Upload-Limit": {"schema": {"type": "string"}, "required": True},
}


def document_refusals(*statuses: int) -> Responses:
    """Return the document's lines for refusals with these HTTP statuses."""
    # Named, not given as a model, of which the framework would build a validator for each.
    schema = {"$ref": "#/components/schemas/RefusalDocument"}
    content = {"application/json": {"schema": schema}}
    return {
        status: {"description": _WORDS[status], "content": content}
        | ({"headers": _RETRY_AFTER} if status in {429, 503} else {})
        for status in statuses
    }


def document_bytes(text: str, media_type: str = OCTETS, *, size: int | None = None) -> Responses:
    """Return the document's line for an answer of raw bytes.

    Args:
        text: What they are.
        media_type: Theirs.
        size: How many, if it is always the same.
    """
    schema: dict[str, Any] = {"type": "string"}
    if media_type == OCTETS:
        schema["format"] = "binary"
    note = text if size is None else f"{text} {size} bytes."
    return {200: {"description": note, "content": {media_type: {"schema": schema}}}}


def document_promise(text: str) -> Responses:
    """Return the document's line for an answer that is a promise."""
    return document_bytes(text, size=220)


def body_of(text: str, size_max: int, media_type: str = OCTETS) -> dict[str, Any]:
    """Return the document's lines for a body of raw bytes, bounded."""
    schema = {"type": "string", "format": "binary", "maxLength": size_max}
    return {
        "requestBody": {
            "required": True,
            "description": f"{text}; at most {size_max} bytes",
            "content": {media_type: {"schema": schema}},
        }
    }


RETRIES: Final[Responses] = document_refusals(429, 503)
"""What every request may be answered."""

UNAVAILABLE: Final[Responses] = document_refusals(503)
"""What every request without a body may be answered."""

PROBLEM: Final[dict[str, Any]] = {
    "description": "The offset is another one, or the answer is known already.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    "headers": UPLOAD_HEADERS,
}


def document_app(app: FastAPI) -> None:
    """Let the application serve a document that is true: no answer that is never given."""

    def make() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                openapi_version="3.1.0",
                summary="Collector, public log and totals of a swarmledger operator.",
                routes=app.routes,
            )
            schemas = document["components"]["schemas"]
            for name, model in (("RefusalDocument", RefusalDocument), ("Problem", ProblemDocument)):
                schemas[name] = model.model_json_schema(
                    by_alias=True, ref_template="#/components/schemas/{model}"
                )
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path in document["paths"].values():
                for operation in path.values():
                    _drop_untrue(operation["responses"])
            app.openapi_schema = document
        return app.openapi_schema

    # The framework's own hook for a document of one's own.
    app.openapi = make  # type: ignore[method-assign]


def _drop_untrue(responses: dict[str, Any]) -> None:
    """Drop the framework's 422: bad parameters are answered 400."""
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if content.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
        del responses["422"]
