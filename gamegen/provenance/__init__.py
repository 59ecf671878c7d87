"""Provenance of clips: signing and verification of C2PA manifests in MP4 files. No web, no model."""
