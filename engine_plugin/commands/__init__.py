"""The subcommands of `swarmledger engine`, one module for each subject."""
