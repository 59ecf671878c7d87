"""Retention of clips, orders and objects: settings, and the run that removes what has expired."""
