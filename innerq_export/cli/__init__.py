"""The command line: Click commands that translate words into calls of the stages and results into text or JSON."""
