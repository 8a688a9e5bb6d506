"""Runs the bridge among faults, and judges from outside whether its promises were kept."""
