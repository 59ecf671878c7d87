"""Clips drawn step by step: interrupted anywhere, resumed elsewhere, the same to the last bit. No service in it."""
