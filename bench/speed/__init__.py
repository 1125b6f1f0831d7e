"""`make bench`: tinyp2p beside other programs that move files, real processes on the same files, in turn."""
