"""Report of a cascade: decides if it pays off, and renders the evidence as a page."""
