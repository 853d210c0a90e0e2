"""What a delivery engine must offer to be metered, and engines other than libtorrent."""
