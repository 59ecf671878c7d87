"""Webhooks: signed requests to a customer's URL when an order has ended."""
