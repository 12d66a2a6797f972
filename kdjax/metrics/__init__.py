"""Metrics: pure functions per example, summed by an evaluation."""
