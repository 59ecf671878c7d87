"""The clip service's domain: orders, their states, the queue, credits and events. No web and no model."""
