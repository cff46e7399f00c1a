"""One file per way to run an engine and look inside."""
