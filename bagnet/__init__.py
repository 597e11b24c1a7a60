"""BagNet (Brendel & Bethge, ICLR 2019): an image's class by the vote of its patches."""
