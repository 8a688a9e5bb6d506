"""Whatever comes from outside, as bytes: targets that read it, and inputs made by coverage or at random."""
