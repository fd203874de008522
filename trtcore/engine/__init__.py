"""Engines: requests, the builder's config, the build, who builds, and what happens to what fails."""
