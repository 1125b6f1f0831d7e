"""What touches the disk: home, index, scanning, hashing, partial files."""
