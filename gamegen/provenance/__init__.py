"""Where a clip comes from, in the clip: a signed C2PA manifest in every MP4, and what checks it. No web, no model."""
