"""CDN access logs as evidence: pure readers over byte streams, one outcome a line.

Reading order: `lines` cuts a stream, `splitting` cuts a line, `field_map` says what fields mean,
`rows` holds what a line can be, `reading` puts them together, `tally` removes what counts twice.
"""
