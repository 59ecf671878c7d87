"""Webhooks: those who ordered a clip are told how it ended, by signed requests to an address of theirs."""
