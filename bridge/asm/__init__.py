"""The ASM service: client, tokens, failures. Nothing else in the bridge knows HTTP."""
