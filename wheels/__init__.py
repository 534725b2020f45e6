"""Builds the wheels that are published, and checks them (`make wheels`)."""
