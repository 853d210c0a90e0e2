"""The JSON that payees are answered with, as the OpenAPI document describes it."""

from pydantic import Field

from ledger.api.documents import Account, Document, Natural


class ChallengeDocument(Document):
    """A challenge of SEP-10."""

    transaction: str = Field(description="TransactionEnvelope XDR in base64, to be signed.")
    network_passphrase: str


class TokenDocument(Document):
    """A session of SEP-10."""

    token: str = Field(description="JSON Web Token, for `Authorization: Bearer`.")


class InChallengeDocument(Document):
    """An amount that may not be paid yet."""

    stroops: Natural
    payable_from_s: Natural = Field(description="Network time, Unix seconds.")


class UnderWayDocument(Document):
    """A payment that a batch makes, once a network ledger takes it."""

    batch: Natural
    stroops: Natural
    channel: Account
    sequence: Natural


class PayeeDocument(Document):
    """A payee's account at the end of the newest computed epoch."""

    broadcaster: Account
    account: Account
    asset: str = Field(description="CODE:ISSUER")
    epoch: Natural
    threshold_stroops: Natural
    cash_out_least_stroops: Natural
    challenge_window_s: Natural
    accrued_stroops: Natural
    paid_stroops: Natural
    owed_stroops: Natural = Field(description="accrued - paid")
    payable_stroops: Natural = Field(description="owed - in challenge - under way")
    in_challenge: list[InChallengeDocument]
    under_way: list[UnderWayDocument]
    reason: str = Field(description="Why it is carried; empty: no line in the newest epoch.")
    pay_to: Account
    next_pay_to: Account | None
    next_pay_to_from_s: int | None
    cash_out_asked: bool


class StatementLineDocument(Document):
    """One epoch of a payee."""

    epoch: Natural
    bytes_p2p: Natural
    bytes_cdn: Natural
    charge_stroops: Natural
    fee_stroops: Natural
    opening_stroops: Natural
    accrued_stroops: Natural
    paid_stroops: Natural
    closing_stroops: Natural
    reason: str


class StatementDocument(Document):
    """Lines by epoch; epochs without a line are left out."""

    lines: list[StatementLineDocument]
