"""Runs the bridge among faults, and judges from outside whether it kept its promises."""
