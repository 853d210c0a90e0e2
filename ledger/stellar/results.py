"""Names of transaction results: for people and logs, never to decide by."""


def result_code_of(result: bytes) -> str:
    """Return the name of a TransactionResult's code, such as "txBAD_SEQ"."""
    code = int.from_bytes(result[8:12], "big", signed=True) if len(result) >= 12 else 1
    # Loaded here: the SDK's XDR takes seconds of CPU, and whoever reads the clock needs none.
    from stellar_sdk.xdr import TransactionResultCode  # noqa: PLC0415

    try:
        name = TransactionResultCode(code).name
    except ValueError:
        return f"tx result {code}"
    # The code after the 64-bit fee; 1 is the success of a fee bump's inner transaction.
    return name if result else "no result"
