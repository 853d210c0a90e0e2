"""Reports: bills, statements and exports, made from audit files.

Every figure comes out of the verifier's own recomputation (`ledger.audit.verify`), never from the
database: whoever holds the audit files and a trust file can make the same bill to the byte. Reading
order: figures, movements, bill, bill_csv, statement, line_proof, beancount; then wording, chart
and pages (how they look), inputs, folder, command.
"""
