"""The ASM service: client, tokens, failures. No other part of the bridge knows HTTP."""
