"""What runs at seeders and viewers: metering, signed receipts, bundles; see `engine`."""
