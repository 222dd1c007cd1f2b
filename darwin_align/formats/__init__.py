"""Tool calls and structured output: reading, grammars, matching, verdicts."""
