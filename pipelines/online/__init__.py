"""Requests to a service: how they wait, share batches and are answered."""
